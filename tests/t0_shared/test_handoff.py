"""The messages between helper and worker: their bytes, and the refusal of everything else."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_shared import handoff
from fuse_s3_shared.handoff import HELPER_SENDS, WORKER_SENDS, HandoffError, decode, encode
from fuse_s3_shared.limits import OPTIONS_MAX, PACKET_MAX, PATH_MAX, REASON_MAX

BOTH = HELPER_SENDS + WORKER_SENDS
ROWS = {row.message: row for row in BOTH}

# -- golden bytes ----------------------------------------------------------------------------------

GOLDEN: dict[str, tuple[handoff.Message, bytes]] = {
    "hello": (
        handoff.Hello(0x01020304, 0xF1F2F3F4, "wörker"),
        b"101\0"  # kind
        b"16909060\0"  # version_min
        b"4059231220\0"  # version_max
        b"w\xc3\xb6rker",  # program, in UTF-8
    ),
    "file": (
        handoff.File("passwd_file", "/etc/\udcff"),
        b"1\0"  # kind
        b"passwd_file\0"  # option
        b"/etc/\xff",  # path: the byte that the kernel knows
    ),
    "mount": (
        handoff.Mount(
            version=0x0A0B0C0D,
            spec="bücket",
            options="a,b=c",
            uid=0x11121314,
            gid=0x21222324,
            read_only=True,
            sloppy=False,
            dry_run=True,
            foreground=False,
        ),
        b"2\0"  # kind
        b"168496141\0"  # version
        b"b\xc3\xbccket\0"  # spec
        b"a,b=c\0"  # options
        b"286397204\0"  # uid
        b"555885348\0"  # gid
        b"1\0"  # read_only
        b"0\0"  # sloppy
        b"1\0"  # dry_run
        b"0",  # foreground
    ),
    "ready": (
        handoff.Ready(uid=0xC1C2C3C4, gid=0xD1D2D3D4),
        b"102\0"  # kind
        b"3250766788\0"  # uid
        b"3520254932",  # gid
    ),
    "refuse": (
        handoff.Refuse(errno=0x01FF, reason="no such bucket"),
        b"103\0"  # kind
        b"511\0"  # errno
        b"no such bucket",  # reason
    ),
    "serve": (handoff.Serve(), b"3"),
    "serving": (handoff.Serving(), b"104"),
    "mounted": (
        handoff.Mounted("/mnt/a b"),
        b"4\0"  # kind
        b"/mnt/a b",  # directory
    ),
    "empty text": (handoff.Mounted(""), b"4\0"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    message, packet = GOLDEN[name]
    assert encode(message) == packet
    found = decode(packet, BOTH, has_fd=ROWS[type(message)].fd)
    assert (type(found), found) == (type(message), message)


def test_golden_bytes_cover_the_vocabulary() -> None:
    assert {type(message) for message, _ in GOLDEN.values()} == {row.message for row in BOTH}


def test_descriptors_belong_to_files_and_to_the_device() -> None:
    assert {row.message for row in BOTH if row.fd} == {handoff.File, handoff.Serve}


def test_kinds_are_distinct() -> None:
    assert len({row.kind for row in BOTH}) == len(BOTH)


# -- there and back --------------------------------------------------------------------------------

U32 = st.integers(0, 2**32 - 1)


def text(limit: int) -> st.SearchStrategy[str]:
    """Text as the kernel hands it over: any bytes but NUL, UTF-8 or not."""
    data = st.binary(max_size=limit).map(lambda data: data.replace(b"\0", b""))
    return data.map(lambda data: data.decode("utf-8", "surrogateescape"))


# Written by the docstrings of the classes, not by the rows: the round trip holds one to the other.
MESSAGES: list[st.SearchStrategy[handoff.Message]] = [
    st.builds(handoff.Hello, U32, U32, text(64)),
    st.builds(handoff.File, text(64), text(PATH_MAX)),
    st.builds(
        handoff.Mount,
        *(U32, text(PATH_MAX), text(2000), U32, U32),
        *(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    ),
    st.builds(handoff.Ready, U32, U32),
    st.builds(handoff.Refuse, st.integers(0, 511), text(REASON_MAX)),
    st.builds(handoff.Serve),
    st.builds(handoff.Serving),
    st.builds(handoff.Mounted, text(PATH_MAX)),
]


@settings(deadline=None, max_examples=500)
@given(st.one_of(MESSAGES))
def test_round_trip(message: handoff.Message) -> None:
    packet = encode(message)
    row = ROWS[type(message)]
    found = decode(packet, (row,), has_fd=row.fd)
    assert (type(found), found) == (type(message), message)


def test_the_largest_message_fits_into_a_packet() -> None:
    longest = "ü" * (PATH_MAX // 2)
    mount = handoff.Mount(
        2**32 - 1, longest, "o" * OPTIONS_MAX, 2**32 - 1, 2**32 - 1, True, True, True, True
    )
    assert len(encode(mount)) < PACKET_MAX


# -- what encode refuses ---------------------------------------------------------------------------

UNSENDABLE: dict[str, tuple[handoff.Message, str]] = {
    "number too large": (handoff.Ready(2**32, 0), "limit is 4294967295"),
    "number negative": (handoff.Ready(-1, 0), "'-1' is not a number"),
    "errno beyond FUSE": (handoff.Refuse(512, ""), "limit is 511"),
    "name too long": (handoff.Hello(1, 1, "n" * 65), "limit is 64"),
    "name too long in bytes": (handoff.Hello(1, 1, "ü" * 33), "a field of 66"),
    "path too long": (handoff.Mounted("/" * (PATH_MAX + 1)), f"limit is {PATH_MAX}"),
    "reason too long": (handoff.Refuse(1, "r" * (REASON_MAX + 1)), f"limit is {REASON_MAX}"),
    "options too long": (
        handoff.Mount(1, "b", "o" * (OPTIONS_MAX + 1), 0, 0, False, False, False, False),
        f"limit is {OPTIONS_MAX}",
    ),
    "NUL": (handoff.Mounted("/mnt\0/etc"), "NUL"),
}


@pytest.mark.parametrize("name", UNSENDABLE)
def test_encode_refuses(name: str) -> None:
    message, complaint = UNSENDABLE[name]
    with pytest.raises(HandoffError, match=complaint):
        encode(message)


# -- what decode refuses ---------------------------------------------------------------------------


def packet(kind: int, *fields: bytes) -> bytes:
    return b"\0".join([b"%d" % kind, *fields])


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "kind '' is not expected"),
    "no number": (b"hello\x001\x001\0worker", "kind 'hello' is not expected"),
    "kind 0": (packet(0), "kind '0' is not expected"),
    "a kind with a zero before it": (b"0104", "kind '0104' is not expected"),
    "a kind with a blank behind it": (b"104 ", "kind '104 ' is not expected"),
    "unknown kind": (packet(105), "kind '105' is not expected"),
    "a very long kind": (b"1" * 60_000, "kind '11111111111111111111' is not expected"),
    "a message of the other side": (packet(3), "kind '3' is not expected"),
    "a field too few": (packet(102, b"1"), "kind 102 with 1 fields instead of 2"),
    "a field too many": (packet(104, b"1"), "kind 104 with 1 fields instead of 0"),
    "an empty field too many": (packet(102, b"1", b"2", b""), "3 fields instead of 2"),
    "nothing but NULs": (b"102" + b"\0" * 1000, "1000 fields instead of 2"),
    "an empty number": (packet(102, b"", b"2"), "'' is not a number"),
    "a negative number": (packet(102, b"-1", b"2"), "'-1' is not a number"),
    "a number with a sign": (packet(102, b"+1", b"2"), "is not a number"),
    "a number with a zero before it": (packet(102, b"01", b"2"), "'01' is not a number"),
    "a number with a blank": (packet(102, b" 1", b"2"), "' 1' is not a number"),
    "a number with an underscore": (packet(102, b"1_0", b"2"), "'1_0' is not a number"),
    "a fraction": (packet(102, b"1.0", b"2"), "'1.0' is not a number"),
    "a hexadecimal number": (packet(102, b"0x1", b"2"), "'0x1' is not a number"),
    "digits of another script": (packet(102, "\u0661".encode(), b"2"), "is not a number"),
    "a superscript": (packet(102, "²".encode(), b"2"), "is not a number"),
    "a number of 60,000 digits": (packet(102, b"9" * 60_000, b"2"), "'9{20}' is not a number"),
    "number too large": (packet(102, b"%d" % 2**32, b"0"), "limit is 4294967295"),
    "errno too large": (packet(103, b"512", b"why"), "limit is 511"),
    "reason too long": (packet(103, b"1", b"r" * (REASON_MAX + 1)), "limit is 512"),
    "reason too long in bytes": (packet(103, b"1", "ü".encode() * 257), "a field of 514"),
    "program too long": (packet(101, b"1", b"1", b"p" * 65), "limit is 64"),
    "NUL in a reason": (packet(103, b"1", b"a\0b"), "3 fields instead of 2"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_decode_refuses(name: str) -> None:
    data, complaint = MALFORMED[name]
    with pytest.raises(HandoffError, match=complaint):
        decode(data, WORKER_SENDS, has_fd=False)


def test_a_truth_value_is_0_or_1() -> None:
    fields = [b"1", b"b", b"", b"0", b"0", b"0", b"0", b"0"]
    mount = handoff.Mount(1, "b", "", 0, 0, False, False, False, True)
    assert decode(packet(2, *fields, b"1"), HELPER_SENDS, has_fd=False) == mount
    with pytest.raises(HandoffError, match="limit is 1"):
        decode(packet(2, *fields, b"2"), HELPER_SENDS, has_fd=False)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_descriptor_too_many_or_too_few(name: str) -> None:
    message, data = GOLDEN[name]
    has_fd = not ROWS[type(message)].fd
    with pytest.raises(HandoffError, match="with a desc" if has_fd else "without a desc"):
        decode(data, BOTH, has_fd=has_fd)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_byte_counts(name: str) -> None:
    """A cut packet is refused, or is another message; it never counts as the whole one."""
    message, data = GOLDEN[name]
    fd = ROWS[type(message)].fd
    for at in range(len(data)):
        for other in (data[:at], data + data[:at], data[:at] + b"\0" + data[at:]):
            if other != data:
                assert decoded(other, has_fd=fd) != (type(message), message)


def decoded(data: bytes, *, has_fd: bool) -> object:
    try:
        message = decode(data, BOTH, has_fd=has_fd)
    except HandoffError:
        return None
    return type(message), message


# -- garbage ---------------------------------------------------------------------------------------


def survives(data: bytes, *, has_fd: bool) -> None:
    """Decode to a message that encodes to the same bytes, or raise HandoffError."""
    for accepted in (HELPER_SENDS, WORKER_SENDS):
        try:
            message = decode(data, accepted, has_fd=has_fd)
        except HandoffError:
            continue
        assert encode(message) == data


@settings(deadline=None, max_examples=2000)
@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(data: bytes, has_fd: bool) -> None:
    survives(data, has_fd=has_fd)


FIELD = st.one_of(st.binary(max_size=20), st.integers(0, 2**33).map(lambda n: b"%d" % n))


@settings(deadline=None, max_examples=3000)
@given(st.sampled_from(BOTH), st.lists(FIELD, max_size=10), st.data())
def test_random_fields_of_a_right_kind(
    row: handoff._Row, fields: list[bytes], data: st.DataObject
) -> None:
    whole = packet(row.kind, *fields)
    at = data.draw(st.integers(0, len(whole) - 1))
    survives(whole, has_fd=row.fd)
    survives(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], has_fd=row.fd)


# -- printable -------------------------------------------------------------------------------------

PRINTED = {
    "": "",
    "no such bucket": "no such bucket",
    "two\nlines\r\n": "two lines  ",
    "\x1b[31mred\x1b[0m": " [31mred [0m",
    "tab\tand\0nul\x7f": "tab and nul ",
    "right to left \u202e\u2066": "right to left   ",
    "not a character \udcff\ud800": "not a character   ",
    "größe 桶 🪣": "größe 桶 🪣",
}


@pytest.mark.parametrize("given_text", PRINTED)
def test_printable(given_text: str) -> None:
    assert handoff.printable(given_text) == PRINTED[given_text]


def test_printable_cuts_between_characters() -> None:
    assert handoff.printable("ü" * 300) == "ü" * (REASON_MAX // 2)
    assert handoff.printable("aü", limit=2) == "a"


@settings(deadline=None, max_examples=1000)
@given(st.text(st.characters(), max_size=700), st.integers(0, 600))
@example("\ud800" * 10, 5)
def test_printable_is_one_line_that_fits(anything: str, limit: int) -> None:
    line = handoff.printable(anything, limit)
    assert line.isprintable()
    assert len(line.encode()) <= limit
    assert encode(handoff.Refuse(1, handoff.printable(anything)))

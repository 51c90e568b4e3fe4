"""The messages between helper and worker: their bytes, and the refusal of everything else."""

from struct import pack

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_shared import handoff
from fuse_s3_shared.handoff import HELPER_SENDS, WORKER_SENDS, HandoffError, decode, encode
from fuse_s3_shared.limits import OPTIONS_MAX, PACKET_MAX, PATH_MAX, REASON_MAX

BOTH = HELPER_SENDS + WORKER_SENDS
BY_KIND = {row.kind: row for row in BOTH}

# -- golden bytes ----------------------------------------------------------------------------------

GOLDEN: dict[str, tuple[handoff.Message, bytes]] = {
    "hello": (
        handoff.Hello(0x01020304, 0xF1F2F3F4, "wörker"),
        b"\x65\x00"  # kind 101
        b"\x03\x00"  # 3 fields
        b"\x23\x00\x00\x00"  # 35 bytes of body
        b"\x08\x00\x00\x00\x04\x03\x02\x01\x00\x00\x00\x00"  # version_min
        b"\x08\x00\x00\x00\xf4\xf3\xf2\xf1\x00\x00\x00\x00"  # version_max
        b"\x07\x00\x00\x00w\xc3\xb6rker",  # program, in UTF-8
    ),
    "file": (
        handoff.File("passwd_file", "/etc/\udcff"),
        b"\x01\x00"  # kind 1
        b"\x02\x00"  # 2 fields
        b"\x19\x00\x00\x00"  # 25 bytes of body
        b"\x0b\x00\x00\x00passwd_file"  # option
        b"\x06\x00\x00\x00/etc/\xff",  # path: the byte that the kernel knows
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
        b"\x02\x00"  # kind 2
        b"\x09\x00"  # 9 fields
        b"\x68\x00\x00\x00"  # 104 bytes of body
        b"\x08\x00\x00\x00\x0d\x0c\x0b\x0a\x00\x00\x00\x00"  # version
        b"\x07\x00\x00\x00b\xc3\xbccket"  # spec
        b"\x05\x00\x00\x00a,b=c"  # options
        b"\x08\x00\x00\x00\x14\x13\x12\x11\x00\x00\x00\x00"  # uid
        b"\x08\x00\x00\x00\x24\x23\x22\x21\x00\x00\x00\x00"  # gid
        b"\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"  # read_only
        b"\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"  # sloppy
        b"\x08\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"  # dry_run
        b"\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",  # foreground
    ),
    "ready": (
        handoff.Ready(uid=0xC1C2C3C4, gid=0xD1D2D3D4),
        b"\x66\x00"  # kind 102
        b"\x02\x00"  # 2 fields
        b"\x18\x00\x00\x00"  # 24 bytes of body
        b"\x08\x00\x00\x00\xc4\xc3\xc2\xc1\x00\x00\x00\x00"  # uid
        b"\x08\x00\x00\x00\xd4\xd3\xd2\xd1\x00\x00\x00\x00",  # gid
    ),
    "refuse": (
        handoff.Refuse(errno=0x01FF, reason="no such bucket"),
        b"\x67\x00"  # kind 103
        b"\x02\x00"  # 2 fields
        b"\x1e\x00\x00\x00"  # 30 bytes of body
        b"\x08\x00\x00\x00\xff\x01\x00\x00\x00\x00\x00\x00"  # errno
        b"\x0e\x00\x00\x00no such bucket",  # reason
    ),
    "serve": (handoff.Serve(), b"\x03\x00" + b"\x00\x00" + b"\x00\x00\x00\x00"),  # 3, no fields
    "serving": (handoff.Serving(), b"\x68\x00" + b"\x00\x00" + b"\x00\x00\x00\x00"),  # 104
    "mounted": (
        handoff.Mounted("/mnt/a b"),
        b"\x04\x00"  # kind 4
        b"\x01\x00"  # 1 field
        b"\x0c\x00\x00\x00"  # 12 bytes of body
        b"\x08\x00\x00\x00/mnt/a b",  # directory
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes(name: str) -> None:
    message, packet = GOLDEN[name]
    assert encode(message) == packet
    row = BY_KIND[packet[0]]
    assert decode(packet, BOTH, has_fd=row.fd) == message


def test_golden_bytes_cover_the_vocabulary() -> None:
    assert {type(message) for message, _ in GOLDEN.values()} == {row.message for row in BOTH}


def test_descriptors_belong_to_files_and_to_the_device() -> None:
    assert {row.message for row in BOTH if row.fd} == {handoff.File, handoff.Mount}


def test_kinds_are_distinct() -> None:
    assert len(BY_KIND) == len(BOTH)


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
    row = next(row for row in BOTH if row.message is type(message))
    assert decode(packet, (row,), has_fd=row.fd) == message


def test_the_largest_message_fits_into_a_packet() -> None:
    longest = "ü" * (PATH_MAX // 2)
    mount = handoff.Mount(
        2**32 - 1, longest, "o" * OPTIONS_MAX, 2**32 - 1, 2**32 - 1, True, True, True, True
    )
    assert len(encode(mount)) < PACKET_MAX


# -- what encode refuses ---------------------------------------------------------------------------

UNSENDABLE: dict[str, tuple[handoff.Message, str]] = {
    "number too large": (handoff.Ready(2**32, 0), "limit is 4294967295"),
    "number negative": (handoff.Ready(-1, 0), "a field of -1"),
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


def packet(kind: int, *fields: bytes, count: int | None = None, length: int | None = None) -> bytes:
    """Return a packet whose header may lie about what follows."""
    body = b"".join(pack("<I", len(field)) + field for field in fields)
    count = len(fields) if count is None else count
    return pack("<HHI", kind, count, len(body) if length is None else length) + body


def number(value: int) -> bytes:
    return pack("<Q", value)


MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no header"),
    "half a header": (packet(104)[:7], "7 bytes has no header"),
    "kind 0": (packet(0), "kind 0 is not expected"),
    "unknown kind": (packet(105), "kind 105 is not expected"),
    "a message of the other side": (packet(3), "kind 3 is not expected"),
    "a field too few": (packet(102, number(1)), "wrong number"),
    "a field too many": (packet(104, number(1)), "wrong number"),
    "more fields than announced": (packet(102, number(1), number(2), count=1), "wrong number"),
    "more announced than there are": (packet(102, number(1), count=2), "ends before a field"),
    "length too small": (packet(102, number(1), number(2), length=23), "wrong number"),
    "length too large": (packet(102, number(1), number(2), length=25), "wrong number"),
    "bytes after the packet": (packet(104) + b"\0", "wrong number"),
    "cut": (packet(102, number(1), number(2))[:-1], "wrong number"),
    "field longer than the body": (
        pack("<HHI", 102, 2, 12) + pack("<I", 9) + number(1),
        "ends inside a field",
    ),
    "field of 4 GiB": (
        pack("<HHI", 102, 2, 8) + pack("<I", 0xFFFFFFFF) + b"abcd",
        "ends inside a field",
    ),
    "ends inside a length": (pack("<HHI", 102, 2, 14) + packet(0, number(1))[8:] + b"\0\0", "ends"),
    "left over": (packet(102, number(1), number(2), b"", count=2), "left over"),
    "number of 7 bytes": (packet(102, number(1), number(2)[:7]), "a number of 7 bytes"),
    "number of 9 bytes": (packet(102, number(1) + b"\0", number(2)), "a number of 9 bytes"),
    "number of 0 bytes": (packet(102, b"", number(2)), "a number of 0 bytes"),
    "number too large": (packet(102, number(2**32), number(0)), "limit is 4294967295"),
    "errno too large": (packet(103, number(512), b"why"), "limit is 511"),
    "reason too long": (packet(103, number(1), b"r" * (REASON_MAX + 1)), "limit is 512"),
    "program too long": (packet(101, number(1), number(1), b"p" * 65), "limit is 64"),
    "NUL in a reason": (packet(103, number(1), b"a\0b"), "NUL"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_decode_refuses(name: str) -> None:
    data, complaint = MALFORMED[name]
    with pytest.raises(HandoffError, match=complaint):
        decode(data, WORKER_SENDS, has_fd=False)


def test_a_truth_value_is_0_or_1() -> None:
    fields = [number(1), b"b", b"", number(0), number(0), number(0), number(0), number(0)]
    mount = handoff.Mount(1, "b", "", 0, 0, False, False, False, True)
    assert decode(packet(2, *fields, number(1)), HELPER_SENDS, has_fd=True) == mount
    with pytest.raises(HandoffError, match="limit is 1"):
        decode(packet(2, *fields, number(2)), HELPER_SENDS, has_fd=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_descriptor_too_many_or_too_few(name: str) -> None:
    data = GOLDEN[name][1]
    has_fd = not BY_KIND[data[0]].fd
    with pytest.raises(HandoffError, match="with a desc" if has_fd else "without a desc"):
        decode(data, BOTH, has_fd=has_fd)


@pytest.mark.parametrize("name", GOLDEN)
def test_cut_anywhere_or_longer(name: str) -> None:
    data = GOLDEN[name][1]
    fd = BY_KIND[data[0]].fd
    for at in range(len(data)):
        with pytest.raises(HandoffError):
            decode(data[:at], BOTH, has_fd=fd)
    for tail in (b"\0", b"\0" * 12, data):
        with pytest.raises(HandoffError):
            decode(data + tail, BOTH, has_fd=fd)


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


@settings(deadline=None, max_examples=3000)
@given(st.sampled_from(BOTH), st.lists(st.binary(max_size=20), max_size=10), st.data())
def test_random_fields_under_a_right_header(
    row: handoff._Row, fields: list[bytes], data: st.DataObject
) -> None:
    fields = fields[: len(row.fields)] + [number(1)] * (len(row.fields) - len(fields))
    whole = packet(row.kind, *fields, count=len(row.fields))
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

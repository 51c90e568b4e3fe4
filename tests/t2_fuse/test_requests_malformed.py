"""What is no request: each gets the one exception, whatever is wrong with its bytes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_worker.fuse import linking, requests
from fuse_s3_worker.fuse.abi import IN_HEADER, Opcode
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.fuse.requests import Header, MalformedRequestError
from support.goldenframes import CASES, GOLDEN, decode

# -- lengths ---------------------------------------------------------------------------------------


def with_length(request: bytes) -> bytes:
    """Make the header tell the frame's true length."""
    return len(request).to_bytes(4, "little") + request[4:]


# Cut here, these are whole all the same: the short form of INIT.
WHOLE = {(Opcode.INIT, "since 7.36"): {56}}


@CASES
def test_cut_anywhere(case: tuple[Opcode, str]) -> None:
    request = GOLDEN[case][0]
    for at in range(len(request)):
        with pytest.raises(MalformedRequestError):
            decode(request[:at])
        if at >= IN_HEADER.size and at not in WHOLE.get(case, ()):
            with pytest.raises(MalformedRequestError):
                decode(with_length(request[:at]))


@CASES
@pytest.mark.parametrize("tail", [b"\0", b"x", b"\0" * 8, b"name\0", b"\0" * 48])
def test_trailing_bytes(case: tuple[Opcode, str], tail: bytes) -> None:
    request = GOLDEN[case][0]
    if case == (Opcode.INIT, "before 7.36") and len(tail) == 48:
        assert isinstance(decode(with_length(request + tail)), requests.Init)  # the long form
        return
    with pytest.raises(MalformedRequestError):
        decode(request + tail)
    with pytest.raises(MalformedRequestError):
        decode(with_length(request + tail))


@pytest.mark.parametrize("said", [0, 39, 44, 46, 0xFFFFFFFF])
def test_the_header_must_tell_the_length(said: int) -> None:
    request = GOLDEN[Opcode.LOOKUP, ""][0]
    with pytest.raises(MalformedRequestError, match=f"a request of 45 bytes says {said}$"):
        Header.decode(memoryview(said.to_bytes(4, "little") + request[4:]))


@pytest.mark.parametrize("size", [0, 4, 6, 0xFFFFFFFF])
def test_data_that_is_not_as_long_as_announced(size: int) -> None:
    body = bytes(16) + size.to_bytes(4, "little") + bytes(20) + b"bytes"
    with pytest.raises(MalformedRequestError, match=f"5 bytes of data where {size} belong"):
        requests.Write.decode(memoryview(body))


@pytest.mark.parametrize("size", [0, 4, 6, 0xFFFFFFFF])
def test_a_value_that_is_not_as_long_as_announced(size: int) -> None:
    for fixed in (8, 16):
        body = size.to_bytes(4, "little") + bytes(fixed - 4) + b"user.a\0value"
        with pytest.raises(MalformedRequestError, match=f"5 bytes of a value where {size} belong"):
            linking.Setxattr.decode(memoryview(body))


@pytest.mark.parametrize("count", [0, 1, 3, 0xFFFFFFFF])
def test_forgets_that_are_not_as_many_as_announced(count: int) -> None:
    body = count.to_bytes(4, "little") + bytes(4) + bytes(32)
    with pytest.raises(MalformedRequestError, match=f"32 bytes are not {count} forgets"):
        requests.BatchForget.decode(memoryview(body))


# -- names -----------------------------------------------------------------------------------------


BAD_NAMES = {
    "empty": b"\0",
    "no NUL": b"name",
    "a slash": b"a/b\0",
    "only a slash": b"/\0",
    "too long": b"n" * 1025 + b"\0",
    "two names": b"a\0b\0",
}


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("opcode", [Opcode.LOOKUP, Opcode.MKNOD, Opcode.MKDIR, Opcode.CREATE])
def test_names_that_are_none(opcode: Opcode, name: str) -> None:
    request, message = GOLDEN[opcode, ""]
    assert isinstance(message, requests.Named | requests.Mknod | requests.Mkdir | requests.Create)
    body = request[IN_HEADER.size : len(request) - len(message.name) - 1]
    with pytest.raises(MalformedRequestError):
        SERVED[opcode].decode(memoryview(body + BAD_NAMES[name]))


@pytest.mark.parametrize("names", [b"\0new\0", b"old\0\0", b"old\0", b"old\0ne/w\0", b"oldnew\0"])
def test_rename_needs_two_names(names: bytes) -> None:
    for opcode, fixed in ((Opcode.RENAME, 8), (Opcode.RENAME2, 16)):
        with pytest.raises(MalformedRequestError):
            SERVED[opcode].decode(memoryview(bytes(fixed) + names))


@pytest.mark.parametrize("name", [b"", b"\0", b"user.a", b"n" * 256 + b"\0"])
def test_attributes_need_a_name(name: bytes) -> None:
    for opcode, fixed in ((Opcode.SETXATTR, 16), (Opcode.GETXATTR, 8), (Opcode.REMOVEXATTR, 0)):
        with pytest.raises(MalformedRequestError):
            SERVED[opcode].decode(memoryview(bytes(fixed) + name))


@pytest.mark.parametrize("target", [b"", b"\0", b"t", b"t" * 4097 + b"\0", b"t\0t"])
def test_a_link_needs_a_target(target: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        linking.Symlink.decode(memoryview(b"name\0" + target))


# -- anything --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=3000)
@given(st.sampled_from(sorted(SERVED)), st.binary(max_size=150))
def test_random_bodies(opcode: int, body: bytes) -> None:
    """A message or the one exception; and the message can be printed on one line for the log."""
    try:
        message = SERVED[opcode].decode(memoryview(body))
    except MalformedRequestError:
        return
    assert "\n" not in repr(message)


@settings(deadline=None, max_examples=1000)
@given(st.binary(max_size=100))
def test_random_headers(request: bytes) -> None:
    try:
        header = Header.decode(memoryview(request))
    except MalformedRequestError:
        return
    assert header.len == len(request)

"""The conversation with a worker that may lie: a real process at the other end of the socket.

Every misbehaviour ends in one line for the user and the right exit status, within the deadline,
and leaves no descriptor and no process.
"""

import array
import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

import pytest

from fuse_s3_helper import worker as module
from fuse_s3_helper.errors import MountError, UsageError, WorkerError
from fuse_s3_helper.worker import Worker
from fuse_s3_shared import limits
from fuse_s3_shared.fdpass import receive_packet, send_packet
from fuse_s3_shared.handoff import (
    HELPER_SENDS,
    File,
    Hello,
    Message,
    Mount,
    Mounted,
    Ready,
    Refuse,
    Serve,
    Serving,
    decode,
    encode,
)
from fuse_s3_shared.limits import PACKET_MAX, PATH_MAX, PROTOCOL_VERSION
from support.isolation import open_descriptors

Act = Callable[[socket.socket], object]

HELLO = Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, "lying worker")
ORDER = Mount(PROTOCOL_VERSION, "bucket", "", 0, 0, False, False, False, False)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a worker that ought to answer fail the test by its message, not by a hasty deadline."""
    monkeypatch.setattr(limits, "START_DEADLINE", 200.0)
    monkeypatch.setattr(limits, "STOP_DEADLINE", 200.0)


@contextlib.contextmanager
def worker_that(act: Act) -> Iterator[Worker]:
    """A worker whose process does `act` with its socket, and ends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    error_read, error_write = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        ours.close()
        os.close(error_read)
        os.dup2(error_write, 2)
        _play(act, theirs)
    theirs.close()
    os.close(error_write)
    worker = Worker(ours, pid, error_read)
    # So that the second line of defence is tested too, where the kernel has the first one.
    with contextlib.suppress(OSError):
        ours.setsockopt(socket.SOL_SOCKET, module._SO_PASSRIGHTS, 1)
    try:
        yield worker
    finally:
        worker.stop()
        os.close(error_read)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reaped


def _play(act: Act, sock: socket.socket) -> NoReturn:
    try:
        act(sock)
    finally:
        os._exit(0)


def until_closed(sock: socket.socket) -> None:
    """Do as a worker does: end when the helper is gone."""
    while sock.recv(PACKET_MAX):
        pass


def saying(*messages: Message) -> Act:
    """Say all of it, whether or not it is one's turn, and wait."""

    def act(sock: socket.socket) -> None:
        for message in messages:
            send_packet(sock, encode(message))
        until_closed(sock)

    return act


def sending(packet: bytes, descriptors: int = 0) -> Act:
    """Send one packet as it is."""

    def act(sock: socket.socket) -> None:
        rights = array.array("i", [2] * descriptors)
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        sock.sendmsg([packet], control)
        until_closed(sock)

    return act


def dying(last_words: bytes, *before: Message) -> Act:
    """Write to standard error and end."""

    def act(sock: socket.socket) -> None:
        for message in before:
            send_packet(sock, encode(message))
        os.write(2, last_words)

    return act


def mount(worker: Worker) -> None:
    """Have the whole conversation, in the helper's order."""
    worker.greet()
    worker.say(ORDER)
    worker.expect(Ready)
    worker.say(Serve(), 2)
    worker.expect(Serving)
    worker.say(Mounted("/mnt"))


# -- a worker as it should be ----------------------------------------------------------------------


def test_an_honest_worker() -> None:
    def honest(sock: socket.socket) -> None:
        send_packet(sock, encode(HELLO))
        for kind, answer in ((File, None), (Mount, Ready(7, 8)), (Serve, Serving())):
            packet, fd = receive_packet(sock, PACKET_MAX)
            if not isinstance(decode(packet, HELPER_SENDS, has_fd=fd is not None), kind):
                return
            if answer is not None:
                send_packet(sock, encode(answer))
        until_closed(sock)

    with worker_that(honest) as worker:
        worker.greet()
        worker.say(File("log_file", "/log"), 2)
        worker.say(ORDER)
        assert worker.expect(Ready) == Ready(7, 8)
        worker.say(Serve(), 2)
        assert worker.expect(Serving) == Serving()
        worker.say(Mounted("/mnt"))


@pytest.mark.parametrize("versions", [(2, 2), (0, 2), (2, 99), (0, 2**32 - 1)])
def test_versions_that_overlap(versions: tuple[int, int]) -> None:
    with worker_that(saying(Hello(*versions, "worker"))) as worker:
        worker.greet()


# -- and as it should not --------------------------------------------------------------------------


class Lie(NamedTuple):
    """What a worker does, and what becomes of the mount."""

    act: Act
    error: type[MountError]
    text: str


BROKEN = "^the worker broke the handoff protocol: "
ENDED = "^the worker ended before it could serve: "

LIES = {
    "versions to come": Lie(
        saying(Hello(3, 4, "")),
        MountError,
        "^the worker speaks handoff versions 3 to 4, mount.s3 speaks 2: install both from one rel",
    ),
    "versions gone by": Lie(saying(Hello(1, 1, "")), MountError, "versions 1 to 1, mount.s3 spe"),
    "versions the wrong way round": Lie(saying(Hello(3, 0, "")), MountError, "versions 3 to 0"),
    "garbage": Lie(sending(b"\xff" * 40), WorkerError, BROKEN + r"message kind '\\udcff.* is not"),
    "one byte": Lie(sending(b"x"), WorkerError, BROKEN + "message kind 'x' is not expected here"),
    "HTTP": Lie(sending(b"GET / HTTP/1.1\r\n\r\n"), WorkerError, BROKEN + "message kind 'GET / "),
    "oversized": Lie(sending(b"x" * 70_000), WorkerError, BROKEN + "a packet of more than 65536"),
    "a descriptor": Lie(sending(encode(HELLO), 1), WorkerError, BROKEN + ".*101 with a descriptor"),
    "two descriptors": Lie(sending(encode(HELLO), 2), WorkerError, BROKEN + "more than one desc"),
    "descriptors alone": Lie(sending(b"", 1), MountError, ENDED),
    "an empty packet": Lie(sending(b""), MountError, ENDED + "look into its log$"),
    "the helper's words": Lie(saying(ORDER), WorkerError, BROKEN + ".*'2' is not expected here"),
    "too long a name": Lie(
        sending(b"101\x002\x002\0" + b"x" * 65),
        WorkerError,
        BROKEN + "a field of 65 where the limit is 64",
    ),
    "READY first": Lie(saying(Ready(0, 0)), WorkerError, "^the worker said Ready out of turn$"),
    "SERVING first": Lie(saying(Serving()), WorkerError, "^the worker said Serving out of turn$"),
    "HELLO twice": Lie(saying(HELLO, HELLO), WorkerError, "^the worker said Hello out of turn$"),
    "SERVING for READY": Lie(saying(HELLO, Serving()), WorkerError, "Serving out of turn$"),
    "READY twice": Lie(saying(HELLO, Ready(1, 1), Ready(1, 1)), WorkerError, "Ready out of turn$"),
    "READY with a uid too large": Lie(
        sending(b"102\x004294967296\x000"),
        WorkerError,
        BROKEN + "a field of 4294967296",
    ),
    "REFUSE": Lie(saying(HELLO, Refuse(errno.ENOENT, "no bucket")), MountError, "^no bucket$"),
    "REFUSE at once": Lie(saying(Refuse(errno.EIO, "not today")), MountError, "^not today$"),
    "REFUSE at last": Lie(saying(HELLO, Ready(1, 1), Refuse(5, "no")), MountError, "^no$"),
    "REFUSE in silence": Lie(saying(Refuse(errno.EACCES, "")), MountError, "^Permission denied$"),
    "REFUSE in colours": Lie(
        saying(Refuse(1, "\x1b[2J\x1b]0;owned\x07a\nmount.s3: b\r\u202eok")),
        MountError,
        r"^ \[2J \]0;owned a mount.s3: b  ok$",
    ),
    "REFUSE with 600 bytes": Lie(
        sending(b"103\x001\0" + b"r" * 600),
        WorkerError,
        BROKEN + "a field of 600 where the limit is 512",
    ),
    "REFUSE that is not UTF-8": Lie(
        sending(b"103\x001\0a\xff\xfeb"),
        MountError,
        "^a  b$",
    ),
    "REFUSE with a wild errno": Lie(
        sending(b"103\x009223372036854775808\0"),
        WorkerError,
        BROKEN + "a field of 9223372036854775808 where the limit is 511",
    ),
    "death": Lie(dying(b""), MountError, ENDED + "look into its log$"),
    "death with a message": Lie(
        dying(b"Traceback ...\nImportError: no uvloop\n\n"),
        MountError,
        ENDED + "ImportError: no uvloop$",
    ),
    "death in colours": Lie(
        dying(b"\x1b[31mred\x07\xff\n"), MountError, ENDED + r" \[31mred \N{REPLACEMENT CHARACTER}$"
    ),
    "death with a long message": Lie(
        dying(b"one\n" + b"x" * 60_000), MountError, ENDED + "x{512}$"
    ),
    "death after HELLO": Lie(dying(b"bye", HELLO), MountError, ENDED + "bye$"),
    "death after READY": Lie(dying(b"bye", HELLO, Ready(1, 1)), MountError, ENDED + "bye$"),
    "death after SERVING": Lie(dying(b"", HELLO, Ready(1, 1), Serving()), MountError, ENDED),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie(name: str) -> None:
    act, error, text = LIES[name]
    everything = open_descriptors()
    with worker_that(act) as worker:
        before = open_descriptors()
        with pytest.raises(MountError, match=text) as caught:
            mount_with_a_dead_end(worker)
        assert type(caught.value) is error
        assert "\n" not in str(caught.value)
        assert open_descriptors() == before
    assert open_descriptors() == everything


def mount_with_a_dead_end(worker: Worker) -> None:
    """Have the conversation; the last word may reach a worker that is about to end."""
    mount(worker)
    while True:
        worker.say(Mounted("/mnt"))  # EPIPE as soon as it has ended


# -- deadlines -------------------------------------------------------------------------------------


def impatient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(limits, "START_DEADLINE", seconds)


def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, 0.05)
    with (
        worker_that(until_closed) as worker,
        pytest.raises(MountError, match=r"^no answer from the worker in time$") as caught,
    ):
        worker.greet()
    assert type(caught.value) is MountError


def test_silence_after_hello() -> None:
    with worker_that(saying(HELLO)) as worker:
        worker.greet()
        worker.deadline = time.monotonic()
        with pytest.raises(MountError, match="no answer from the worker"):
            worker.expect(Ready)


def test_the_deadline_is_for_the_whole_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker must not keep a mount waiting by saying a little now and then."""
    impatient(monkeypatch, 1000.0)
    with worker_that(saying(HELLO, Ready(1, 1))) as worker:
        start = worker.seconds_left
        worker.greet()
        worker.say(ORDER)
        worker.expect(Ready)
        assert worker.seconds_left < start <= 1000.0


def say_without_end(worker: Worker) -> None:
    while True:
        worker.say(File("x" * 64, "/" * PATH_MAX), 2)


def test_a_worker_that_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket fills up; the deadline holds for sending too."""
    with worker_that(lambda _: time.sleep(1000)) as worker:
        monkeypatch.setattr(limits, "STOP_DEADLINE", 0.05)
        worker.deadline = time.monotonic() + 0.05
        with pytest.raises(MountError, match="no answer from the worker"):
            say_without_end(worker)


# -- the end ---------------------------------------------------------------------------------------


def test_a_worker_that_does_not_leave_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STOP_DEADLINE", 0.05)
    with worker_that(lambda _: time.sleep(1000)):
        pass  # stop() at the end; that it is reaped is checked there


def test_a_worker_that_leaves_by_itself_is_not_killed() -> None:
    """It finds its socket closed, and may tidy up."""
    read_end, write_end = os.pipe()

    def tidy(sock: socket.socket) -> None:
        until_closed(sock)
        os.write(write_end, b"tidy")

    with worker_that(tidy):
        pass
    os.close(write_end)
    assert os.read(read_end, 10) == b"tidy"
    os.close(read_end)


def test_saying_what_is_too_long_is_the_users_mistake() -> None:
    with (
        worker_that(saying(HELLO)) as worker,
        pytest.raises(UsageError, match=r"^too long for a mount: a field of 5000 where the limit"),
    ):
        worker.say(File("log_file", "/" * 5000), 2)


def test_a_death_with_unread_words() -> None:
    """The kernel then says ECONNRESET instead of an end."""

    def deaf(sock: socket.socket) -> None:
        send_packet(sock, encode(HELLO))
        sock.recv(PACKET_MAX, socket.MSG_PEEK)
        os.write(2, b"deaf\n")

    with worker_that(deaf) as worker:
        worker.greet()
        worker.say(ORDER)
        with pytest.raises(MountError, match=f"{ENDED}deaf$"):
            worker.expect(Ready)

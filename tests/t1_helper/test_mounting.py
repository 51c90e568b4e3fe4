"""The mount itself: real ones, detached or in a namespace that ends with the test.

Nobody serves most of these mounts, so nothing here looks into one without knowing that it can.
"""

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fuse_s3_helper import mount as module
from fuse_s3_helper import syscalls
from fuse_s3_helper.argv import MountRequest, parse
from fuse_s3_helper.device import open_device
from fuse_s3_helper.errors import MountError
from fuse_s3_helper.mount import create_mount, remount
from fuse_s3_helper.mountpoint import pin
from fuse_s3_worker.fuse import replies
from fuse_s3_worker.fuse.abi import IN_HEADER, Opcode
from fuse_s3_worker.fuse.channel import Channel, UnmountedError
from fuse_s3_worker.fuse.negotiate import negotiate
from fuse_s3_worker.fuse.requests import Header, Init
from support.isolation import in_child, with_own_mounts

pytestmark = pytest.mark.mount

SPEC = "bücket/a prefix"

# Both ways to mount must come to the same.
WAYS = {"detached": None, "no such call": errno.ENOSYS, "forbidden by seccomp": errno.EPERM}


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A directory to mount on."""
    path = tmp_path / "mnt"
    path.mkdir()
    return str(path)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mount by fsopen(2), or without it."""
    number = WAYS[request.param]
    if number is not None:
        calls: Callable[[bytes], int] = lambda _: _refuse(number)  # noqa: E731
        monkeypatch.setattr(syscalls, "fsopen", calls)
    return str(request.param)


def _refuse(number: int) -> int:
    raise OSError(number, os.strerror(number))


def asked(place: str, options: str, spec: str = SPEC) -> MountRequest:
    return parse(["mount.s3", spec, place, "-o", options])


def entry(place: str) -> list[str] | None:
    """Return the words of mountinfo for the mount at `place`; see proc(5)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == place:
            return words
    return None


def mounted(
    place: str, options: str, spec: str = SPEC, only: tuple[int, int] | None = None
) -> list[str]:
    """Mount and attach; return what mountinfo says, after taking it all away again."""

    def work() -> list[str]:
        made = create_mount(asked(place, options, spec), only, pin(place))
        made.attach()
        found = entry(place)
        syscalls.umount(os.fsencode(place), 2)  # MNT_DETACH
        assert found is not None
        return found

    return with_own_mounts(work)


# -- what is made ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
def test_a_mount(place: str) -> None:
    words = mounted(place, "rw")
    kind, source, superblock = words[words.index("-") + 1 :]
    assert kind == "fuse.s3"
    assert source == SPEC.replace(" ", "\\040")
    assert set(superblock.split(",")) == {
        *("rw", "user_id=0", "group_id=0", "default_permissions", "allow_other")
    }
    assert set(words[5].split(",")) == {"rw", "nosuid", "nodev", "relatime"}


@pytest.mark.usefixtures("way")
def test_a_private_mount(place: str) -> None:
    superblock = mounted(place, "private", only=(7, 8))[-1]
    assert set(superblock.split(",")) == {"rw", "user_id=7", "group_id=8", "default_permissions"}


# (of the mount, of the superblock) beside those of a mount without any option
FLAG_CASES: dict[str, tuple[set[str], set[str]]] = {
    "ro": ({"ro", "nosuid", "nodev", "relatime"}, {"ro"}),
    "noexec": ({"rw", "nosuid", "nodev", "noexec", "relatime"}, {"rw"}),
    "noatime": ({"rw", "nosuid", "nodev", "noatime"}, {"rw"}),
    "nodiratime": ({"rw", "nosuid", "nodev", "nodiratime", "relatime"}, {"rw"}),
    "strictatime": ({"rw", "nosuid", "nodev"}, {"rw"}),
    "nosymfollow": ({"rw", "nosuid", "nodev", "nosymfollow", "relatime"}, {"rw"}),
    "sync": ({"rw", "nosuid", "nodev", "relatime"}, {"rw", "sync"}),
    "dirsync": ({"rw", "nosuid", "nodev", "relatime"}, {"rw", "dirsync"}),
    "lazytime": ({"rw", "nosuid", "nodev", "relatime"}, {"rw", "lazytime"}),
    "suid,dev": ({"rw", "nosuid", "nodev", "relatime"}, {"rw"}),
    "silent,relatime,async,exec": ({"rw", "nosuid", "nodev", "relatime"}, {"rw"}),
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("options", FLAG_CASES)
def test_flags(place: str, options: str) -> None:
    words = mounted(place, options)
    superblock = set(words[-1].split(",")) - {"default_permissions", "allow_other"}
    superblock = {word for word in superblock if not word.endswith("_id=0")}
    assert (set(words[5].split(",")), superblock) == FLAG_CASES[options]


@pytest.mark.parametrize("size", [255, 256, 1000])
def test_a_long_spec(place: str, size: int) -> None:
    """A bucket and a prefix have up to 1,088 characters, an ARN more; fsconfig(2) takes 255."""
    spec = "bucket/" + "p" * (size - 7)
    words = mounted(place, "rw", spec)
    assert words[words.index("-") + 2] == spec


def test_the_kernel_reads_ahead_in_full_requests(place: str) -> None:
    def work() -> str:
        made = create_mount(asked(place, "rw"), None, pin(place))
        made.attach()
        words = entry(place)
        assert words is not None
        return Path(f"/sys/class/bdi/{words[2]}/read_ahead_kb").read_text()

    assert with_own_mounts(work) == "1024\n"


def test_nobody_sees_a_mount_before_it_is_attached(place: str) -> None:
    def work() -> list[str] | None:
        made = create_mount(asked(place, "rw"), None, pin(place))
        found = entry(place)
        made.undo()
        return found

    assert with_own_mounts(work) is None


@pytest.mark.usefixtures("way")
def test_a_mount_that_fails_is_taken_away(place: str) -> None:
    def work() -> list[str] | None:
        made = create_mount(asked(place, "rw"), None, pin(place))
        made.undo()
        return entry(place)

    assert with_own_mounts(work) is None


@pytest.mark.usefixtures("way")
def test_it_goes_onto_what_was_pinned(place: str) -> None:
    """A directory that takes the place of the pinned one stays as it is."""

    def work() -> tuple[object, object]:
        point = pin(place)
        Path(place).rename(place + "-moved")
        Path(place).mkdir()
        with contextlib.suppress(FileNotFoundError):
            # mount(2) finds the root of its mount by the path, which fails here in any case.
            create_mount(asked(place, "rw"), None, point).attach()
        return entry(place), entry(place + "-moved")

    impostor, pinned = with_own_mounts(work)
    assert impostor is None
    assert pinned is not None


# -- what the kernel refuses -----------------------------------------------------------------------


def test_the_kernels_own_words_reach_the_user(place: str) -> None:
    """`context` would have been taken out by libmount where there is no SELinux."""
    with pytest.raises(MountError) as caught:
        create_mount(asked(place, "context=a:b:c"), None, pin(place))
    text = str(caught.value)
    assert text.startswith("the kernel refuses the mount: ")
    assert "context" in text.removeprefix("the kernel refuses the mount: ")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("options", ["mand", "rw"])
def test_a_refusal_without_words(place: str, options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FUSE has no mandatory locks; and a descriptor of something else is no device."""
    if options == "rw":
        monkeypatch.setattr(module, "open_device", lambda: os.open("/dev/null", os.O_RDWR))

    def work() -> str:
        with pytest.raises(MountError) as caught:
            create_mount(asked(place, options), None, pin(place))
        assert entry(place) is None
        return str(caught.value)

    assert with_own_mounts(work) == "the kernel refuses the mount: Invalid argument"


def test_an_unexpected_failure_of_fsopen_is_not_hidden(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "fsopen", lambda _: _refuse(errno.ENODEV))
    with pytest.raises(OSError, match="No such device"):
        create_mount(asked(place, "rw"), None, pin(place))


# -- whether it serves -----------------------------------------------------------------------------


@contextlib.contextmanager
def held_by(device: int, serve: Callable[[int], object]) -> Iterator[None]:
    """Give `device` to a process that does `serve` with it, and keep no copy of it here."""
    pid = os.fork()
    if not pid:
        try:
            serve(device)
        finally:
            os._exit(0)
    os.close(device)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def serve_root(device: int) -> None:
    """Answer INIT and the look at the root, as little as that takes."""
    os.set_blocking(device, True)
    channel = Channel(device)
    answers: dict[int, Callable[[memoryview], bytes]] = {
        Opcode.INIT: lambda body: negotiate(Init.decode(body))[0],
        Opcode.GETATTR: lambda _: replies.attr_out(
            replies.Attr(1, 0, 0o40755, 2, 0, 0, 0, 0, 0, 4096), 0
        ),
    }
    with contextlib.suppress(UnmountedError):
        while (request := channel.receive_nowait()) is not None:
            header = Header.decode(request)
            if header.opcode in answers:
                channel.reply(header.unique, answers[header.opcode](request[IN_HEADER.size :]))
            else:
                channel.fail(header.unique, errno.ENOSYS)


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_a_mount_that_is_served_serves(place: str) -> None:
    made = create_mount(asked(place, "rw"), None, pin(place))
    before = children()
    with held_by(made.device, serve_root):
        assert made.serves(60.0)
        assert made.serves(60.0)
        made.undo()
    assert children() == before


def test_a_mount_that_nobody_serves_does_not_and_nobody_hangs(place: str) -> None:
    """The look at it cannot be interrupted; it ends when the connection does."""

    def work() -> bool:
        made = create_mount(asked(place, "rw"), None, pin(place))
        with held_by(made.device, lambda _: signal.pause()):
            serves = made.serves(0.05)
        # The last copy of the device is gone: the one who still looks comes back with an error.
        _, status = os.wait()
        assert os.waitstatus_to_exitcode(status) == 1
        assert not children()
        made.undo()
        return serves

    assert in_child(work) is False


def test_a_mount_whose_worker_dies_does_not_serve(place: str) -> None:
    made = create_mount(asked(place, "rw"), None, pin(place))
    with held_by(made.device, lambda _: None):
        assert not made.serves(60.0)
    made.undo()


def test_a_mount_that_is_for_somebody_else_alone_is_not_looked_into(place: str) -> None:
    made = create_mount(asked(place, "owner_only"), (12345, 12345), pin(place))
    with held_by(made.device, serve_root):
        assert made.serves(60.0)
        made.undo()


# -- remount ---------------------------------------------------------------------------------------


def flags_after(place: str, *options: str) -> list[set[str]]:
    """Mount with the first options and remount with the others; return the flags after each."""

    def work() -> list[set[str]]:
        made = create_mount(asked(place, options[0]), None, pin(place))
        made.attach()
        found = []
        with held_by(made.device, serve_root):  # pinning looks at what it pins
            for words in options[1:]:
                remount(asked(place, words))
                line = entry(place)
                assert line is not None
                found.append(set(line[5].split(",")))
        return found

    return with_own_mounts(work)


def test_remount(place: str) -> None:
    """What is not asked for is gone, but for nosuid and nodev."""
    assert flags_after(place, "rw", "remount,ro,noexec", "remount,rw", "remount,suid,dev") == [
        {"ro", "nosuid", "nodev", "noexec", "relatime"},
        {"rw", "nosuid", "nodev", "relatime"},
        {"rw", "nosuid", "nodev", "relatime"},
    ]


def test_remount_of_something_else(place: str) -> None:
    """With a mount of the test's own: should it not be refused, nothing of the machine changes."""

    def work() -> str:
        syscalls.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"")
        before = entry(place)
        with pytest.raises(MountError) as caught:
            remount(asked(place, "remount,ro"))
        assert entry(place) == before
        return str(caught.value)

    assert with_own_mounts(work) == f"{place} is on tmpfs: remount needs a mounted bucket"


def test_remount_of_a_directory_beneath_another_programs_mount(place: str) -> None:
    """fuse.sshfs is a FUSE mount too, and none of ours."""

    def work() -> str:
        device = open_device()
        data = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        syscalls.mount(b"host:", os.fsencode(place), b"fuse.sshfs", 0, data)
        with held_by(device, serve_root), pytest.raises(MountError) as caught:
            remount(asked(place, "remount,ro"))
        return str(caught.value)

    assert "is on fuse.sshfs: remount needs a mounted bucket" in with_own_mounts(work)


def test_every_call_of_the_kernel_is_checked() -> None:
    """A failure is an OSError with the kernel's number, whichever call it is."""
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "fsopen": (lambda: syscalls.fsopen(b"no such type"), errno.ENODEV),
        "fsconfig_set": (lambda: syscalls.fsconfig_set(1 << 20, b"ro", None), errno.EBADF),
        "fsconfig_create": (lambda: syscalls.fsconfig_create(1 << 20), errno.EBADF),
        "fsmount": (lambda: syscalls.fsmount(1 << 20, 0), errno.EBADF),
        "move_mount": (lambda: syscalls.move_mount(-1, -1), errno.EBADF),
        "mount": (lambda: syscalls.mount(b"", b"/nowhere", b"none", 0, b""), errno.ENOENT),
        "umount": (lambda: syscalls.umount(b"/nowhere", 0), errno.ENOENT),
        "setns": (lambda: syscalls.setns(-1), errno.EBADF),
        "set_process": (lambda: syscalls.set_process(-1, 0), errno.EINVAL),
    }
    for name, (call, number) in calls.items():
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            call()
        assert caught.value.errno == number, name

"""The mounted file system beside the machine's own: random programs do the same to both.

After each step both trees have the same names and sizes; every few steps, and at the end, the same
content; and then the bucket has it, too, and another mount of it.
"""

import itertools
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from support.mounts import Mount
from support.s3 import Bucket
from support.twins import (
    KEEP_SIZE,
    LONG_AGO,
    PUNCH_HOLE,
    RENAME_NOREPLACE,
    Node,
    Opened,
    Twins,
    copy_range,
    fallocate,
    fallocate_changes,
    renameat2,
    same,
    tree_of,
    write_mapped,
    zero_range,
)

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product"), pytest.mark.one_store]

MIB = 1 << 20
PART = 5 * MIB

PATHS = ["a", "b", "d", "d/a", "d/b", "e", "e/a", "e/d", "e/d/a"]
ANY = st.sampled_from(PATHS)
# Most files are small; every now and then one has several parts.
PLACES = st.sampled_from(
    [0, 0, 1, 5, 4095, 4096, 5000, 65536, 100_001, PART - 1, PART, PART + 4097, 2 * PART + 3]
)
SIZES = st.sampled_from([0, 1, 7, 100, 4096, 4097, 70_000, 300_000])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
HOW = st.sampled_from(
    [
        0,
        0,
        0,
        os.O_CREAT,
        os.O_CREAT,
        os.O_CREAT | os.O_EXCL,
        os.O_TRUNC,
        os.O_CREAT | os.O_TRUNC,
        os.O_APPEND,
        os.O_CREAT | os.O_APPEND,
    ]
)
OWNERS = st.sampled_from([0, 1000, 4_000_000])
OPEN_MAX = 6


class World:
    """One bucket, mounted, that machines work in one after the other.

    Attributes:
        steps: how many there were.
    """

    def __init__(self, bucket: Bucket, model: Path, *options: str) -> None:
        self.bucket = bucket
        self.model = model
        self.posix = "posix" in options
        self.steps = 0
        self.mount = Mount(bucket, f"part_size={PART // MIB}M", *options)
        self._numbers = itertools.count()

    @contextmanager
    def mounted(self) -> Iterator["World"]:
        """Mount it."""
        with self.mount:
            yield self

    def begin(self) -> tuple[str, Twins]:
        """Return a new directory of both, and where in it programs work.

        A link of theirs to "../a" leads to what is beside that place, and not to another run's.
        """
        name = f"run{next(self._numbers)}"
        for root in (self.model, self.mount.path):
            (root / name / "top").mkdir(parents=True)
        model, mount = (root / name / "top" for root in (self.model, self.mount.path))
        return name, Twins(model, mount, attributes=self.posix)

    def compare(self) -> None:
        """Hold everything that was ever done against the model."""
        Twins(self.model, self.mount.path, attributes=self.posix).compare()

    def compare_bucket(self, name: str, *, words: int) -> None:
        """Hold what other clients see against a directory of the model, with some attributes."""
        expected = tree_of(self.model / name, contents=True, attributes=bool(words))
        same(_shortened(expected, words), _shortened(self.tree_in_bucket(name), words))

    def remount(self) -> None:
        """Unmount, and mount anew; nothing may be open."""
        done = self.mount.unmount()
        assert not done.returncode, done.stderr
        assert self.mount.wait_for_worker()
        self.mount.mount()

    def tree_in_bucket(self, name: str) -> dict[str, Node]:
        """Return what other clients see, with modes and owners where they are kept."""
        found: dict[str, Node] = {}
        for key in self.bucket.keys(f"{name}/"):
            path = key.removeprefix(f"{name}/")
            for at, letter in enumerate(path):
                if letter == "/":
                    found.setdefault(path[:at], DIRECTORY)
            if path:
                found[path.rstrip("/")] = self._object(key)
        return found

    def _object(self, key: str) -> Node:
        """Return what an object is, in the words of s3fs's metadata."""
        reply = self.bucket.client.get_object(Bucket=self.bucket.name, Key=key)
        content = bytes(reply["Body"].read())
        if not self.posix:
            return DIRECTORY if key.endswith("/") else Node(stat.S_IFREG, len(content), content)
        known = reply["Metadata"]
        mode = int(known["mode"])
        has_content = stat.S_ISREG(mode) or stat.S_ISLNK(mode)
        assert has_content or not content, key
        return Node(
            stat.S_IFMT(mode),
            len(content),
            content if has_content else None,
            (f"{mode:o}", f"{known['uid']}:{known['gid']}"),
        )


DIRECTORY = Node(stat.S_IFDIR, 0, None)


def _shortened(tree: dict[str, Node], words: int) -> dict[str, Node]:
    """Return a tree with the first `words` attributes of each node."""
    return {path: node._replace(attributes=node.attributes[:words]) for path, node in tree.items()}


class Machine(RuleBasedStateMachine):
    """Programs that work in a directory."""

    files = Bundle("files")
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.name, self.twins = self.world.begin()
        self.seed = 0
        for path in ("d", "e", "e/d"):
            self.mkdir(path)
        for path, size in (("a", 70_000), ("d/a", 5), ("e/d/a", 300_000)):
            self.write_whole(path, size)

    def data(self, size: int) -> bytes:
        """Return bytes that were not written before."""
        self.seed += 1
        unit = b"%07d " % (self.seed * 1009)
        return (unit * (size // len(unit) + 1))[:size]

    # -- names ----------------------------------------------------------------------------------

    @rule(path=ANY)
    def mkdir(self, path: str) -> None:
        self.twins.both(lambda root: (root / path).mkdir())

    @rule(path=ANY)
    def rmdir(self, path: str) -> None:
        self.twins.both(lambda root: (root / path).rmdir())

    @rule(path=ANY)
    def unlink(self, path: str) -> None:
        self.twins.both(lambda root: (root / path).unlink())

    @rule(old=ANY, new=ANY, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE]))
    def rename(self, old: str, new: str, flags: int) -> None:
        self.twins.both(lambda root: renameat2(root / old, root / new, flags))

    @rule(path=ANY)
    def list_directory(self, path: str) -> None:
        self.twins.both(lambda root: sorted(os.listdir(root / path)))  # noqa: PTH208  names

    @rule(path=ANY, size=SIZES)
    def write_whole(self, path: str, size: int) -> None:
        data = self.data(size)
        file = self.twins.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        if file:
            self.twins.both_open(file, lambda fd: os.write(fd, data))
            self.twins.close(file)

    @rule(path=ANY)
    def read_whole(self, path: str) -> None:
        if not self.twins.is_special(path):
            self.twins.both(lambda root: (root / path).read_bytes())

    @rule(path=ANY, size=PLACES)
    def truncate(self, path: str, size: int) -> None:
        # [S43] To the size that a file has is no change, and leaves its time alone.
        if self.twins.size_of(path) != size:
            self.twins.both(lambda root: os.truncate(root / path, size))

    # -- open files -----------------------------------------------------------------------------

    @rule(target=files, path=ANY, access=ACCESS, how=HOW)
    def open(self, path: str, access: int, how: int) -> Opened | MultipleResults[Opened]:
        if len(self.twins.opened) >= OPEN_MAX:
            return multiple()
        file = self.twins.open(path, access | how)
        return file or multiple()

    @rule(file=consumes(files))
    def close(self, file: Opened) -> None:
        self.twins.close(file)

    @rule(file=files, place=PLACES, size=SIZES)
    def pwrite(self, file: Opened, place: int, size: int) -> None:
        data = self.data(size)
        self.twins.both_open(file, lambda fd: os.pwrite(fd, data, place))

    @rule(file=files, size=SIZES)
    def write(self, file: Opened, size: int) -> None:
        data = self.data(size)
        self.twins.both_open(file, lambda fd: os.write(fd, data))
        self.twins.both_open(file, lambda fd: os.lseek(fd, 0, os.SEEK_CUR))

    @rule(file=files, place=PLACES, size=SIZES)
    def pread(self, file: Opened, place: int, size: int) -> None:
        if file.reads:
            self.twins.read(file, place, size)

    @rule(file=files, size=PLACES)
    def ftruncate(self, file: Opened, size: int) -> None:
        if file.size != size:  # as above
            self.twins.both_open(file, lambda fd: os.ftruncate(fd, size))

    @rule(file=files, place=PLACES, size=SIZES)
    def write_mapped(self, file: Opened, place: int, size: int) -> None:
        data = self.data(size)
        if file.flags & os.O_ACCMODE == os.O_RDWR:
            self.twins.both_open(file, lambda fd: write_mapped(fd, place, data))

    @rule(
        file=files,
        mode=st.sampled_from([0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE]),
        place=PLACES,
        size=SIZES,
    )
    def fallocate(self, file: Opened, mode: int, place: int, size: int) -> None:
        if self.world.posix and file.writes and not fallocate_changes(file, mode, place, size):
            return  # [S43] as above
        self.twins.both_open(file, lambda fd: fallocate(fd, mode, place, size))

    @rule(file=files, place=PLACES, size=SIZES, keep=st.booleans())
    def zero_range(self, file: Opened, place: int, size: int, *, keep: bool) -> None:
        if file.writes and size and not file.flags & os.O_APPEND:
            zero_range(file, place, size, keep=keep)

    @rule(source=files, sink=files, start=PLACES, place=PLACES, size=SIZES)
    def copy(self, source: Opened, sink: Opened, start: int, place: int, size: int) -> None:
        if source.before or sink.before:
            return
        self.twins.same(
            lambda: copy_range(source.model, sink.model, start, place, size),
            lambda: copy_range(source.mount, sink.mount, start, place, size),
        )

    @rule(file=files, place=PLACES)
    def seek(self, file: Opened, place: int) -> None:
        if not file.before:
            self.twins.seek(file, place)

    @rule(file=files)
    def fsync(self, file: Opened) -> None:
        self.twins.both_open(file, os.fsync)

    # -- looking --------------------------------------------------------------------------------

    @rule()
    def compare(self) -> None:
        self.twins.compare()

    @invariant()
    def names_and_sizes(self) -> None:
        self.world.steps += 1
        self.twins.compare(contents=False)

    @rule(sure=st.integers(0, 19))
    def remount(self, sure: int) -> None:
        if sure == 0 and not self.twins.opened:
            self.world.remount()
            self.twins.compare()

    def teardown(self) -> None:
        self.twins.close_all()
        self.twins.compare()
        # What was set is kept a moment later, in one request; all the rest is there by now.
        self.world.compare_bucket(self.name, words=0)


class PosixMachine(Machine):
    """Programs that care for modes, owners, times, links and attributes, too."""

    @rule(path=ANY, mode=st.sampled_from([0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o000]))
    def chmod(self, path: str, mode: int) -> None:
        self.twins.both(lambda root: (root / path).chmod(mode))

    @rule(path=ANY, uid=OWNERS, gid=OWNERS)
    def chown(self, path: str, uid: int, gid: int) -> None:
        self.twins.both(lambda root: os.chown(root / path, uid, gid))

    @rule(path=ANY, uid=OWNERS)
    def lchown(self, path: str, uid: int) -> None:
        self.twins.both(lambda root: os.lchown(root / path, uid, -1))

    @rule(path=ANY, when=st.integers(0, LONG_AGO * 10**9 - 1))
    def utimens(self, path: str, when: int) -> None:
        self.twins.both(lambda root: os.utime(root / path, ns=(when, when), follow_symlinks=False))

    @rule(path=ANY, to=st.sampled_from(["a", "d", "../a", "nowhere", "x" * 300, "e/d"]))
    def symlink(self, path: str, to: str) -> None:
        self.twins.both(lambda root: (root / path).symlink_to(to))

    @rule(path=ANY)
    def mkfifo(self, path: str) -> None:
        self.twins.both(lambda root: os.mkfifo(root / path, 0o640))

    @rule(path=ANY, kind=st.sampled_from([stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK, stat.S_IFREG]))
    def mknod(self, path: str, kind: int) -> None:
        device = os.makedev(1, 7) if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0
        self.twins.both(lambda root: os.mknod(root / path, kind | 0o600, device))

    @rule(
        path=ANY,
        name=st.sampled_from(["user.a", "user.b"]),
        value=st.sampled_from([b"", b"1", b"\0\xff", b"x" * 200]),
        flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self.twins.both(
            lambda root: os.setxattr(root / path, name, value, flags, follow_symlinks=False)
        )

    @rule(path=ANY, name=st.sampled_from(["user.a", "user.b"]))
    def removexattr(self, path: str, name: str) -> None:
        self.twins.both(lambda root: os.removexattr(root / path, name, follow_symlinks=False))

    @rule(file=Machine.files, mode=st.sampled_from([0o644, 0o6755, 0o400]))
    def fchmod(self, file: Opened, mode: int) -> None:
        self.twins.both_open(file, lambda fd: os.fchmod(fd, mode))

    @rule(file=Machine.files, when=st.integers(0, LONG_AGO * 10**9 - 1))
    def futimens(self, file: Opened, when: int) -> None:
        self.twins.both_open(file, lambda fd: os.utime(fd, ns=(when, when)))


def run(world: World, *, examples: int, steps: int) -> None:
    """Run machines; `steps` is of each."""
    kind = PosixMachine if world.posix else Machine
    machine = type("Machine", (kind,), {"world": world})
    with world.mounted():
        run_state_machine_as_test(
            machine,
            settings=settings(
                deadline=None,
                max_examples=examples,
                stateful_step_count=steps,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.explicit, Phase.reuse, Phase.generate],
                report_multiple_bugs=False,
            ),
        )
        world.remount()
        world.compare()
    for root in world.model.iterdir():
        world.compare_bucket(root.name, words=2 if world.posix else 0)


WORLDS = pytest.mark.parametrize("options", [(), ("posix",)], ids=["plain", "posix"])


@WORLDS
@pytest.mark.timeout(900)
def test_a_thousand_steps(bucket: Bucket, tmp_path: Path, options: tuple[str, ...]) -> None:
    world = World(bucket, tmp_path, *options)
    run(world, examples=25, steps=50)
    assert world.steps >= 1000


@WORLDS
@pytest.mark.long
@pytest.mark.timeout(14_400)
def test_fifty_thousand_steps(bucket: Bucket, tmp_path: Path, options: tuple[str, ...]) -> None:
    world = World(bucket, tmp_path, *options)
    run(world, examples=600, steps=100)
    assert world.steps >= 50_000

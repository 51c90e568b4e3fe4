"""The whole file system beside a model that is a dict: random programs, and another client.

The model knows keys and bytes, and what POSIX and the promises of this file system make of them.
After each step the bucket must be what the model says, and so must everything a program can see.
"""

import asyncio
import errno
import os
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.fs import namespace
from fuse_s3_worker.fs.nodes import ROOT_ID
from support.fsmodel import Handle, Model, OpenFile, parent_of
from support.pattern import pattern
from support.tree import LIFETIME, Tree
from support.virtualtime import Bench, settle

_T = TypeVar("_T")

FIRST_PART = 64  # bytes: small files and large ones, both of a few bytes

PATHS = ["a", "b", "d", "d/a", "d/b", "e", "e/a", "e/d", "e/d/a"]
ANY = st.sampled_from(PATHS)
DATA = st.integers(0, FIRST_PART * 2)


class FileSystemMachine(RuleBasedStateMachine):
    """Programs that use a mount."""

    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.t = self.run(self._set_up())
        self.model = Model()
        self.seed = 0

    async def _set_up(self) -> Tree:
        return Tree(budget=8 * MIB, first_part=FIRST_PART, part_min=1)

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self.bench.run(work)

    def _data(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def _try(self, work: Coroutine[Any, Any, object], expected: int = 0) -> bool:
        """Run `work`, which must come to the errno `expected`; tell whether that is success."""
        assert self._outcome(work) == expected
        return not expected

    def _outcome(self, work: Coroutine[Any, Any, object]) -> int:
        """Run `work`; return the errno that it comes to, 0 for success."""
        try:
            self.run(work)
        except ServeError as error:
            return error.errno
        return 0

    # -- names ----------------------------------------------------------------------------------

    @rule(path=ANY)
    def mkdir(self, path: str) -> None:
        if self._try(self.t.mkdir(path), self.model.refused_making(path)):
            self.model.bucket[f"{path}/"] = b""

    @rule(path=ANY)
    def mknod(self, path: str) -> None:
        if self._try(self.t.mknod(path), self.model.refused_making(path)):
            self.model.bucket[path] = b""

    @rule(path=ANY)
    def unlink(self, path: str) -> None:
        if self._try(self.t.unlink(path), self.model.refused_unlink(path)):
            self.model.unlink(path)

    @rule(path=ANY)
    def rmdir(self, path: str) -> None:
        if self._try(self.t.rmdir(path), self.model.refused_rmdir(path)):
            self.model.rmdir(path)

    @rule(old=ANY, new=ANY, noreplace=st.booleans())
    def rename(self, old: str, new: str, *, noreplace: bool) -> None:
        outcome = self._outcome(self.t.rename(old, new, int(noreplace)))
        model = self.model
        nowhere = [p for p in (old, new) if not model.is_directory(parent_of(p))]
        if nowhere:  # which of the two is told first is the kernel's, and not looked at here
            assert outcome in {model.missing(path) for path in nowhere}
            return
        expected = model.refused_rename(old, new, noreplace=noreplace)
        if outcome == errno.EBUSY and not expected:
            # Parts of something were sent already, which only large files have.
            assert any(len(v) > FIRST_PART for f in model.below(old) for v in f.versions)
            return
        assert outcome == expected
        if not expected and old != new:
            model.rename(old, new)

    @rule(path=ANY | st.just(""), count=st.integers(0, 8), plus=st.booleans())
    def list_directory(self, path: str, count: int, *, plus: bool) -> None:
        if not self.model.is_directory(path):
            return
        expected = self.model.children(path)
        assert self.run(self.t.list(path, plus=plus)) == expected
        names, rest = self.run(self._names(path, count))
        assert sorted(names) == sorted([".", "..", *expected])
        assert rest == names[count:]

    async def _names(self, path: str, count: int) -> tuple[list[str], list[str]]:
        """Read a directory, and again from behind the first `count` entries."""
        directories = self.t.fs.directories
        number = directories.opendir(await self.t.walk(path))
        found = [record async for record in directories.entries(number, 0)]
        # Offsets are not counts: an entry that was removed may leave its number behind.
        offset = ([0] + [record.offset for record in found])[: count + 1][-1]
        rest = [record.name.decode() async for record in directories.entries(number, offset)]
        directories.releasedir(number)
        return [record.name.decode() for record in found], rest

    # -- open files -----------------------------------------------------------------------------

    def _opened(self, number: int, flags: int, file: OpenFile) -> Handle:
        handle = Handle(number, flags, file)
        self.model.open(handle)
        return handle

    @rule(target=handles, path=ANY, flags=st.sampled_from([os.O_WRONLY, os.O_RDWR]))
    def create(self, path: str, flags: int) -> Handle | MultipleResults[Handle]:
        if self.model.refused_making(path):  # the kernel looks first
            return multiple()
        number = self.run(self.t.create(path, flags))
        file = OpenFile(path, b"", None, changed=True, versions=[b""])
        return self._opened(number, flags, file)

    @rule(
        target=handles,
        path=ANY,
        flags=st.sampled_from(
            [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC]
        ),
    )
    def open(self, path: str, flags: int) -> Handle | MultipleResults[Handle]:
        content = self.model.content(path)
        if content is None:
            expected = errno.EISDIR if self.model.is_directory(path) else self.model.missing(path)
            self._try(self.t.open(path, flags), expected)
            return multiple()
        file = self.model.opened.get(path)
        if file is None:
            file = OpenFile(path, content, content, changed=False, versions=[content])
        elif file.content != content:  # another client has replaced it
            file.content = file.stored = content
            file.versions.append(content)
        number = self.run(self.t.open(path, flags))
        if flags & os.O_TRUNC and file.content:
            file.set(b"")
        return self._opened(number, flags, file)

    @rule(handle=handles, place=st.sampled_from(["end", "start", "middle", "beyond"]), size=DATA)
    def write(self, handle: Handle, place: str, size: int) -> None:
        if not handle.writes:
            return
        file, data = handle.file, self._data(size)
        offset = {
            "end": len(file.content),
            "start": 0,
            "middle": len(file.content) // 2,
            "beyond": len(file.content) + 5,
        }[place]
        self.run(self.t.write(handle.number, offset, data))
        if data:
            file.put(offset, data)

    @rule(handle=handles, size=DATA)
    def truncate_open(self, handle: Handle, size: int) -> None:
        file = handle.file
        if not handle.writes:
            return
        self.run(self.t.set(self.t.handles[handle.number], size))
        if size != len(file.content):
            file.set(file.content[:size].ljust(size, b"\0"))

    @rule(
        handle=handles,
        mode=st.sampled_from([0, 1, 2, 3, 16, 17, 8]),
        offset=st.integers(0, 2 * FIRST_PART),
        length=st.integers(1, FIRST_PART),
    )
    def fallocate(self, handle: Handle, mode: int, offset: int, length: int) -> None:
        if not handle.writes:
            return
        known = mode in {0, 1, 3, 16, 17}  # as fallocate(2) has them, without inserting
        work = self.t.fs.ranges.fallocate(handle.number, offset, length, mode)
        if self._try(work, 0 if known else errno.EOPNOTSUPP):
            handle.file.fallocate(mode, offset, length)

    @rule(
        source=handles, sink=handles, start=st.integers(0, 2 * FIRST_PART),
        place=st.integers(0, FIRST_PART), length=st.integers(1, 2 * FIRST_PART),
    )  # fmt: skip
    def copy(self, source: Handle, sink: Handle, start: int, place: int, length: int) -> None:
        """copy_file_range(2), which the kernel calls for what does not overlap."""
        file, to = source.file, sink.file
        overlaps = file is to and abs(start - place) < length
        if not (source.reads and sink.writes) or overlaps:
            return
        if file.unlinked or to.unlinked or self.model.theirs(file):
            return
        data = file.content[start : start + length]
        copy = self.t.fs.ranges.copy(source.number, start, sink.number, place, length)
        assert self.run(self._all_of(copy, source, start, sink, place, length)) == len(data)
        if data:
            to.put(place, data)
            to.borrows.add(file.path)

    async def _all_of(
        self,
        copy: Coroutine[Any, Any, int],
        source: Handle,
        start: int,
        sink: Handle,
        place: int,
        length: int,
    ) -> int:
        """Go on until there is nothing more, as cp does."""
        copied = step = await copy
        while step and copied < length:
            step = await self.t.fs.ranges.copy(
                source.number, start + copied, sink.number, place + copied, length - copied
            )
            copied += step
        return copied

    @rule(handle=handles, offset=st.integers(0, 2 * FIRST_PART))
    def seek(self, handle: Handle, offset: int) -> None:
        file = handle.file
        if file.unlinked or self.model.theirs(file):
            return
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            try:
                found = self.t.fs.ranges.lseek(handle.number, offset, whence)
            except ServeError as error:
                assert error.errno == errno.ENXIO  # noqa: PT017  one of two good outcomes
                found = len(file.content)
                assert whence == os.SEEK_DATA or offset >= found
            if whence == os.SEEK_DATA:
                assert not any(file.content[offset:found])
            else:
                assert offset >= len(file.content) or offset <= found <= len(file.content)

    @rule(path=ANY, size=DATA)
    def truncate(self, path: str, size: int) -> None:
        content = self.model.content(path)
        if content is None or path in self.model.opened:
            return
        self.run(self.t.set(self.run(self.t.walk(path)), size))
        self.model.bucket[path] = content[:size].ljust(size, b"\0")

    @rule(handle=handles, offset=st.integers(0, 2 * FIRST_PART), size=st.integers(1, 200))
    def read(self, handle: Handle, offset: int, size: int) -> None:
        if not handle.reads:
            return
        file = handle.file
        data: list[bytes] = []

        async def read() -> None:
            data.append(await self.t.read(handle.number, offset, size))

        outcome = self._outcome(read())
        if outcome:
            self._check_refused_read(outcome, file)
        else:
            self._check_read(handle, offset, size, data[0])

    def _check_refused_read(self, outcome: int, file: OpenFile) -> None:
        assert outcome == errno.ESTALE
        # replaced since, by this mount or by another client
        assert file.unlinked or file.versions[1:] or self.model.theirs(file)

    def _check_read(self, handle: Handle, offset: int, size: int, data: bytes) -> None:
        file = handle.file
        if handle.writes:
            assert data == file.content[offset : offset + size]
            return
        candidates = [*file.versions, file.content]
        if self.model.theirs(file) or (file.replaced and file.path in self.model.bucket):
            candidates.append(self.model.bucket[file.path])
            file.versions.append(candidates[-1])
        assert any(data == version[offset : offset + size] for version in candidates)

    @rule(handle=handles)
    def fsync(self, handle: Handle) -> None:
        self.run(self.t.fs.files.fsync(handle.number))
        if handle.writes:
            self.model.store(handle.file)

    @rule(handle=consumes(handles))
    def close(self, handle: Handle) -> None:
        self.run(self.t.close(handle.number))
        self.model.close(handle)

    # -- the rest of the world ------------------------------------------------------------------

    @rule()
    def a_moment_passes(self) -> None:
        self.run(asyncio.sleep(namespace._KEEP_AFTER + 0.1))
        self.run(settle())
        self.model.settle()

    @rule()
    def a_lifetime_passes(self) -> None:
        self.a_moment_passes()  # what is done then is believed for a lifetime, too
        self.run(asyncio.sleep(LIFETIME + 0.1))
        self.t.fs.expire()

    @rule(path=ANY, size=DATA)
    def another_client_writes(self, path: str, size: int) -> None:
        self.a_moment_passes()
        if not self.model.exists(path) and not self.model.free(path):
            return
        if self.model.is_directory(path) or self.model.written(path) or self.model.lent(path):
            return
        data = self._data(size)
        self.t.store.write(path, data)
        self.model.bucket[path] = data
        self.a_lifetime_passes()

    @rule(path=ANY)
    def another_client_removes(self, path: str) -> None:
        self.a_moment_passes()
        key = f"{path}/" if self.model.is_directory(path) else path
        if key not in self.model.bucket or self.model.busy(path) or self.model.opened:
            return
        self.t.store.remove(key)
        del self.model.bucket[key]
        self.a_lifetime_passes()

    @rule(path=ANY, operation=st.sampled_from(["head", "list_page"]))
    def the_store_fails_a_lookup(self, path: str, operation: str) -> None:
        self.a_lifetime_passes()
        if path in self.model.opened or not self.model.is_directory(parent_of(path)):
            return
        parent = self.run(self.t.walk(parent_of(path)))
        self.t.store.fail(operation)
        self._try(self.t.lookup(parent, path.rpartition("/")[2]), errno.EIO)
        self.t.store.mend()

    # -- what must be true always ---------------------------------------------------------------

    @invariant()
    def the_bucket_is_what_the_model_says(self) -> None:
        assert {key: self.t.store.read(key) for key in self._keys()} == self.model.bucket

    def _keys(self) -> Iterator[str]:
        yield from self.t.store.keys()

    @invariant()
    def programs_see_what_the_model_says(self) -> None:
        for path in PATHS:
            if self.model.exists(path):
                attributes = self.run(self.t.stat(path))
                content = self.model.content(path)
                assert attributes.size == len(content or b"")
                assert (attributes.nlink == 2) == self.model.is_directory(path)
            else:
                self._try(self.t.stat(path), self.model.missing(path))

    def teardown(self) -> None:
        self.run(self.t.finish())
        self.bench.close()


FileSystemMachine.TestCase.settings = settings(
    deadline=None, max_examples=100, stateful_step_count=40
)
# Making a failure small takes minutes.
TestAgainstTheModel = pytest.mark.timeout(900)(FileSystemMachine.TestCase)


def test_the_model_is_of_the_same_world() -> None:
    """The root has no key, and every path of the model has its parents in it."""
    assert ROOT_ID == 1
    assert all(parent_of(path) in {"", *PATHS} for path in PATHS)

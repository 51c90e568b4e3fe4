"""The portable engine's adapter: paths, references, handles, and errors; without libfuse."""

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fuse_s3_worker.errors import Fault, FileSystemError, StoreError
from fuse_s3_worker.fuse.opcodes import SERVED
from fuse_s3_worker.portable import adapter as portable
from fuse_s3_worker.portable.adapter import (
    ENCODING,
    OPERATIONS,
    Caller,
    FailedError,
    PortableAdapter,
    interruptible,
)
from support.gatedstore import unreachable
from support.pattern import pattern
from support.posixtree import posix_tree
from support.tree import Tree, tree
from support.virtualtime import on_loop, settle

ROOT = Caller(0, 0, os.getpid())
USER = Caller(1234, 5678, os.getpid())
MIB = 1 << 20


class Asking:
    """Asks as libfuse does, with the arguments that fusepy makes."""

    def __init__(self, t: Tree) -> None:
        self.t = t
        self.adapter = PortableAdapter(t.fs)

    async def __call__(self, operation: str, *arguments: object, caller: Caller = ROOT) -> Any:  # noqa: ANN401
        return await self.adapter.serve(caller, operation, *arguments)

    async def fails(self, operation: str, *arguments: object, caller: Caller = ROOT) -> str:
        """Return the name of the errno."""
        with pytest.raises(FailedError) as failed:
            await self(operation, *arguments, caller=caller)
        return errno.errorcode[failed.value.errno]

    async def put(self, path: str, data: bytes) -> None:
        """Make a file, as a shell does with `>`."""
        handle = await self("create", path, stat.S_IFREG | 0o644, os.O_WRONLY | os.O_TRUNC)
        await self("write", None, data, 0, handle)
        await self("flush", None, handle)
        await self("release", None, handle)

    async def names(self, path: str) -> list[str]:
        """List a directory, from offset to offset."""
        handle, offset, found = await self("opendir", path), 0, []
        while records := await self("readdir", None, handle, offset):
            found += [record.name for record in records]
            offset = records[-1].offset
        await self("releasedir", None, handle)
        return found


@asynccontextmanager
async def asking(**objects: bytes) -> AsyncIterator[Asking]:
    """Set up a mount; in the end no node may be referred to any more, nor a file be open."""
    async with tree({key.replace("__", "/"): data for key, data in objects.items()}) as t:
        ask = Asking(t)
        yield ask
        ask.adapter.close()
        assert ask.adapter._reads == {}


# -- paths and references --------------------------------------------------------------------------


@on_loop()
async def test_references_are_given_back() -> None:
    async with asking(a__b__c=b"data") as ask:

        def nodes() -> int:
            return ask.t.fs.statistics().nodes

        assert (await ask("getattr", "/a/b/c"))["st_size"] == 4
        assert nodes() == 1
        handle = await ask("open", "/a/b/c", os.O_RDONLY)
        assert nodes() == 4  # the file and its directories, as long as it is open
        assert await ask("read", None, 100, 1, handle) == b"ata"
        await ask("release", None, handle)
        assert nodes() == 1
        assert await ask.fails("getattr", "/a/b/missing") == "ENOENT"
        assert await ask.fails("getattr", "/a/b/c/d") == "ENOTDIR"
        assert await ask.fails("mkdir", "/missing/d", 0o755) == "ENOENT"
        assert await ask.fails("rename", "/a/b", "/missing/x") == "ENOENT"
        assert nodes() == 1
        await ask("rename", "/a/b/c", "/a/d")
        await ask("mkdir", "/a/e", 0o755)
        await ask("mknod", "/a/e/f", stat.S_IFREG | 0o644, 0)
        await ask("unlink", "/a/e/f")
        await ask("rmdir", "/a/e")
        assert sorted(await ask.names("/a")) == [".", "..", "b", "d"]


@on_loop()
async def test_names_are_bytes() -> None:
    """fusepy has text; ours is such that every byte survives, and the file system judges."""
    async with asking() as ask:
        name = "/" + "ü😀".encode().decode(ENCODING)
        await ask.put(name, b"x")
        assert ask.t.store.keys() == ["ü😀"]
        assert (await ask.names("/"))[2:] == [name[1:]]
        assert await ask.fails("getattr", "/\xff\xfe") == "EILSEQ"
        assert await ask.fails("mkdir", "/" + "x" * 256, 0o755) == "ENAMETOOLONG"


@on_loop()
async def test_the_root() -> None:
    async with asking() as ask:
        found = await ask("getattr", "/")
        assert (found["st_ino"], stat.S_ISDIR(found["st_mode"])) == (1, True)
        assert await ask.names("/") == [".", ".."]
        volume = await ask("statfs", "/")
        assert volume["f_namemax"] == 255
        assert volume["f_bavail"] * volume["f_frsize"] == 1 << 50


@on_loop()
async def test_a_large_directory_comes_in_parts() -> None:
    objects = {f"f{number:04d}": b"" for number in range(1500)}
    async with asking(**objects) as ask:
        handle = await ask("opendir", "/")
        first = await ask("readdir", None, handle, 0)
        assert 2 < len(first) < 1000
        again = await ask("readdir", None, handle, first[9].offset)
        assert again[:5] == first[10:15]
        await ask("releasedir", None, handle)
        assert (await ask.names("/"))[2:] == sorted(objects)


# -- attributes ------------------------------------------------------------------------------------


@on_loop()
async def test_attributes_have_the_names_of_fusepy() -> None:
    async with asking(x=b"1" * 513) as ask:
        found = await ask("getattr", "/x")
        shown = await ask.t.stat("x")
        assert (found["st_size"], found["st_blocks"], found["st_nlink"]) == (513, 2, 1)
        assert (found["st_mode"], found["st_uid"], found["st_gid"]) == (0o100644, 1, 2)
        assert (found["st_ino"], found["st_mtime"]) == (shown.ino, shown.mtime)
        await ask.t.forget_all()


@on_loop()
async def test_what_is_not_kept_is_shown_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """[S10] chmod, chown and utimens succeed, show for `metadata_ttl` seconds, and are not kept."""
    async with asking(a=b"", b=b"", c=b"") as ask:
        await ask("chmod", "/a", 0o100600)
        await ask("chown", "/a", 55, -1)
        await ask("utimens", "/a", (None, 7_000_000_001))
        found = await ask("getattr", "/a")
        assert (found["st_mode"], found["st_uid"], found["st_gid"]) == (0o100600, 55, 2)
        assert found["st_mtime"] == 7_000_000_001
        # That takes nodes, and only so many.
        monkeypatch.setattr(portable, "_HELD_MAX", 2)
        for name in ("/b", "/c", "/c"):
            await ask("chmod", name, 0o600)
        assert ask.t.fs.statistics().nodes == 2
        assert (await ask("getattr", "/a"))["st_mode"] == 0o100644


@on_loop()
async def test_truncate_by_path_and_by_handle() -> None:
    async with asking(x=b"0123456789") as ask:
        await ask("truncate", "/x", 4)
        assert ask.t.store.read("x") == b"0123"
        handle = await ask("open", "/x", os.O_RDWR)
        await ask("truncate", None, 2, handle)
        await ask("unlink", "/x")
        await ask("truncate", None, 1, handle)  # there is no path any more
        assert (await ask("getattr", None, handle))["st_size"] == 1
        await ask("release", None, handle)
        assert await ask.fails("getattr", None, handle) == "EBADF"


# -- files -----------------------------------------------------------------------------------------


@on_loop()
async def test_reading_and_writing() -> None:
    async with asking(x=pattern(3 * MIB)) as ask:
        reader = await ask("open", "/x", os.O_RDONLY)
        sizes = [await ask("read", None, MIB, at * MIB, reader) for at in range(4)]
        assert b"".join(sizes) == pattern(3 * MIB)
        await ask("release", None, reader)
        await ask.put("/y", b"new")
        log = await ask("open", "/y", os.O_WRONLY | os.O_APPEND)
        await ask("write", None, b" line", 0, log)  # where the kernel believed the end to be
        await ask("fsync", None, 0, log)
        assert ask.t.store.read("y") == b"new line"
        assert await ask.fails("read", None, 1, 0, log) == "EBADF"
        await ask("release", None, log)


@on_loop()
async def test_a_write_that_has_to_wait_for_memory() -> None:
    """All of it is taken, and before the operation is over: its bytes are libfuse's."""
    t = Tree(budget=8 * MIB, first_part=5 * MIB)
    ask = Asking(t)
    handle = await ask("create", "/x", stat.S_IFREG | 0o644, os.O_WRONLY)
    for at in range(24):
        assert await ask("write", None, pattern(MIB), at * MIB, handle) == MIB
    await ask("flush", None, handle)
    await ask("release", None, handle)
    assert t.store.read("x") == pattern(MIB) * 24
    await t.finish()


@on_loop()
async def test_an_interrupted_read_is_given_up() -> None:
    """[S74] A program that waits while it looks up, opens, lists or reads can be interrupted by a
    signal; storing and deleting are finished.
    """
    async with asking(x=pattern(MIB)) as ask:
        ask.t.store.by_hand = True
        handle = await ask("open", "/x", os.O_RDONLY)
        reads = [asyncio.create_task(ask("read", None, 10, at, handle)) for at in (0, 20)]
        await settle()
        reads[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await reads[0]
        while not reads[1].done():
            for arrival in ask.t.store.arrivals:
                if not arrival.done.done():
                    arrival.feed()
            await settle()
        assert reads[1].result() == pattern(MIB)[20:30]
        await ask("release", None, handle)


def test_what_may_be_interrupted() -> None:
    looks = {name for name in OPERATIONS if interruptible(name, ("/x", os.O_RDWR))}
    assert looks == {"getattr", "readlink", "getxattr", "listxattr", "open", "opendir", "read",
                     "readdir"}  # fmt: skip
    assert not interruptible("open", ("/x", os.O_WRONLY | os.O_TRUNC))
    # The same as in our own engine, where opening a directory takes no time.
    native = {row.handler for row in SERVED.values() if row.interruptible}
    assert native - {"lookup", "readdirplus"} == looks - {"opendir"}


@on_loop()
async def test_a_close_by_a_child_does_not_store_the_file() -> None:
    """[S35] A child that inherits a descriptor and closes it does not store the file while the
    process that opened it lives; the last close does.
    """
    async with asking() as ask:
        handle = await ask("create", "/x", stat.S_IFREG | 0o644, os.O_WRONLY)
        await ask("write", None, b"data", 0, handle)
        await ask("flush", None, handle, caller=Caller(0, 0, os.getppid()))
        assert ask.t.store.keys() == []
        await ask("release", None, handle)
        assert ask.t.store.read("x") == b"data"


# -- errors ----------------------------------------------------------------------------------------


@on_loop("request_failed")
async def test_what_the_store_refuses_is_told() -> None:
    """[S30] When storing fails, fsync or close gives the error, and the bucket has what it had
    before.
    """
    async with asking(x=b"before") as ask:
        for operation, arguments in (("fsync", (0,)), ("flush", ())):
            handle = await ask("open", "/x", os.O_WRONLY | os.O_TRUNC)
            await ask("write", None, b"after", 0, handle)
            ask.t.store.fail("put", StoreError(Fault.FORBIDDEN, "no"))
            assert await ask.fails(operation, None, *arguments, handle) == "EACCES"
            assert await ask.fails("write", None, b"more", 5, handle) == "EACCES"
            await ask.fails("release", None, handle)
            assert ask.t.store.read("x") == b"before"


@on_loop("request_failed", "this")
async def test_a_mistake_of_ours_costs_one_request() -> None:
    async with asking(x=b"") as ask:
        assert await ask.fails("open", "/x", "no number") == "EIO"
        assert (await ask("getattr", "/x"))["st_size"] == 0


@on_loop("request_failed")
async def test_a_store_that_is_away() -> None:
    async with asking(x=b"1") as ask:
        ask.t.store.fail("head", unreachable())
        ask.t.store.fail("list_page", unreachable())
        assert await ask.fails("getattr", "/x") == "EIO"
        assert (await ask("getattr", "/x"))["st_size"] == 1


@on_loop()
async def test_requests_are_counted_and_init_is_noticed() -> None:
    async with asking() as ask:
        assert not ask.adapter.initialized.is_set()
        await ask("init", "/")
        assert ask.adapter.initialized.is_set()
        await ask("getattr", "/")
        assert ask.adapter.requests == 2


# -- what is served --------------------------------------------------------------------------------

# By our own engine alone: of libfuse's own business, or not in the interface that fusepy has.
NATIVE_ONLY = set(
    "lookup forget batch_forget interrupt destroy access setattr readdirplus "
    "fallocate lseek copy_file_range copy_file_range_64".split()
)
# Of setattr, which libfuse takes apart.
SETTING = {"chmod", "chown", "truncate", "utimens"}


def test_both_engines_serve_the_same() -> None:
    native = {row.handler for row in SERVED.values()}
    assert set(OPERATIONS) == (native - NATIVE_ONLY) | SETTING


@on_loop()
async def test_what_takes_posix() -> None:
    async with asking(x=b"") as ask:
        assert await ask.fails("symlink", "/link", "x") == "EPERM"
        assert await ask.fails("readlink", "/x") == "EPERM"
        assert await ask.fails("mknod", "/fifo", stat.S_IFIFO | 0o600, 0) == "EPERM"
        assert await ask.fails("link", "/second", "/x") == "ENOTSUP"
        for operation, more in (
            ("getxattr", ("user.x",)),
            ("setxattr", ("user.x", b"", 0)),
            ("listxattr", ()),
            ("removexattr", ("user.x",)),
        ):
            assert await ask.fails(operation, "/x", *more) == "ENOSYS"


@on_loop()
async def test_links_special_files_and_attributes() -> None:
    async with posix_tree() as t:
        ask = Asking(t)
        await ask("mkdir", "/d", 0o700, caller=USER)
        await ask("symlink", "/d/link", "to \xff", caller=USER)
        await ask("mknod", "/d/fifo", stat.S_IFIFO | 0o620, 0, caller=USER)
        assert await ask("readlink", "/d/link") == "to \xff"
        assert await ask.fails("readlink", "/d/fifo") == "EINVAL"
        found = await ask("getattr", "/d/fifo")
        assert (found["st_mode"], found["st_uid"], found["st_gid"]) == (0o10620, 1234, 5678)
        assert (await ask("getattr", "/d"))["st_mode"] == 0o40700
        await ask("setxattr", "/d/fifo", "user.x", b"1\0", 0)
        assert await ask("listxattr", "/d/fifo") == ["user.x"]
        assert await ask("getxattr", "/d/fifo", "user.x") == b"1\0"
        assert await ask.fails("setxattr", "/d/fifo", "user.x", b"", os.XATTR_CREATE) == "EEXIST"
        await ask("removexattr", "/d/fifo", "user.x")
        assert await ask.fails("getxattr", "/d/fifo", "user.x") == "ENODATA"


@on_loop()
async def test_setuid_goes_when_somebody_else_writes() -> None:
    """Whether it has to is among the flags that libfuse does not pass on."""
    async with posix_tree() as t:
        ask = Asking(t)
        for name, caller, flags, mode in (
            ("/root", ROOT, os.O_WRONLY, 0o104755),
            ("/written", USER, os.O_WRONLY, 0o100755),
            ("/replaced", USER, os.O_WRONLY | os.O_TRUNC, 0o100755),
        ):
            await ask.put(name, b"program")
            await ask("chmod", name, 0o104755)
            handle = await ask("open", name, flags, caller=caller)
            if not flags & os.O_TRUNC:
                await ask("write", None, b"P", 0, handle, caller=caller)
            await ask("flush", None, handle, caller=caller)
            await ask("release", None, handle, caller=caller)
            assert (await ask("getattr", name))["st_mode"] == mode, name
        ask.adapter.close()


def test_failed_errors_name_themselves() -> None:
    assert str(FailedError(errno.ENOENT)) == "No such file or directory"
    assert not isinstance(FailedError(errno.ETIMEDOUT), OSError)  # which would be a TimeoutError
    assert FileSystemError(errno.EIO, "").errno == errno.EIO

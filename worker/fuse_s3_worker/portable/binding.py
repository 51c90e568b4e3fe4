"""libfuse's calls, from its threads to the loop and back.

fusepy describes libfuse's structures and translates arguments. Its own way to serve is libfuse's
main(), which mounts, may fork, and takes the signals; here the mount is the helper's, so what
main() does after it has mounted is done by hand: a channel over the descriptor, libfuse's state on
top, and its loop, which starts a thread whenever all it has are busy.

To be imported after `library.load`.
"""

import asyncio
import concurrent.futures
import ctypes
import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fuse

from fuse_s3_worker.portable.adapter import (
    ENCODING,
    OPERATIONS,
    Caller,
    FailedError,
    PortableAdapter,
    Record,
    interruptible,
)

__all__ = ["LibfuseServer"]

_log = logging.getLogger(__name__)

_OPTIONS = (
    "direct_io",  # no pages in the kernel: see adapter
    "attr_timeout=0", "entry_timeout=0",
    "use_ino",  # inode numbers of ours
    "hard_remove",  # unlink, and not rename to .fuse_hidden*: the file system keeps what is open
    "atomic_o_trunc",  # replacing an object is one step
    "big_writes",  # WRITEs of more than a page
    "no_splice_read", "no_splice_write",  # which need pipes, and save nothing here
)  # fmt: skip

# libfuse: operations on open files bring no path, since a file may have none any more; and a
# time that is not to be set is UTIME_OMIT.
_FLAGS = ("flag_nullpath_ok", "flag_nopath", "flag_utime_omit_ok")

_SAME_AS = {"fgetattr": "getattr", "ftruncate": "truncate"}  # fusepy adds the handle

_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2  # linux/stat.h
_SECOND = 1_000_000_000
_LOOK_EVERY = 0.5  # seconds between looks whether the caller was sent a signal


class _Arguments(ctypes.Structure):
    """struct fuse_args."""


_Arguments._fields_ = [
    ("argc", ctypes.c_int),
    ("argv", ctypes.POINTER(ctypes.c_char_p)),
    ("allocated", ctypes.c_int),
]


def _library() -> ctypes.CDLL:
    """Return the library that fusepy has loaded, with the calls that fusepy does not make."""
    library = ctypes.CDLL(os.environ["FUSE_LIBRARY_PATH"])
    library.fuse_kern_chan_new.argtypes = [ctypes.c_int]
    library.fuse_kern_chan_new.restype = ctypes.c_void_p
    library.fuse_loop_mt.argtypes = library.fuse_destroy.argtypes = [ctypes.c_void_p]
    library.fuse_destroy.restype = None
    return library


def _fuse_new(library: ctypes.CDLL) -> Callable[..., int | None]:
    """Return fuse_new of API 26: dlsym(3) finds one of an API that had another signature."""
    dlvsym = ctypes.CDLL(None).dlvsym
    dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    dlvsym.restype = ctypes.c_void_p
    prototype = ctypes.CFUNCTYPE(
        *(ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(_Arguments)),
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
    )
    handle = library._handle  # noqa: SLF001  what dlopen(3) gave; ctypes has no other name for it
    return prototype(dlvsym(handle, b"fuse_new", b"FUSE_2.6"))


class _Calls(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """What libfuse calls: fusepy's translations, and our own where fusepy leaves something out."""

    def __init__(self, operations: Callable[..., Any]) -> None:
        # Not FUSE.__init__: that is libfuse's main().
        self.operations = operations
        self.raw_fi = False
        self.encoding = ENCODING
        self.use_ns = True

    def table(self) -> ctypes.Structure:
        """Return struct fuse_operations."""
        table: ctypes.Structure = fuse.fuse_operations()
        for name, prototype, *_ in fuse.fuse_operations._fields_:
            if _SAME_AS.get(name, name) in OPERATIONS:
                setattr(table, name, prototype(partial(_answer, getattr(self, name))))
        for flag in _FLAGS:
            setattr(table, flag, 1)
        return table

    def create(self, path: bytes, mode: int, info: Any) -> int:  # noqa: ANN401
        """The flags, too: O_APPEND is one of them."""
        flags = info.contents.flags
        info.contents.fh = self.operations("create", path.decode(ENCODING), mode, flags)
        return 0

    def readdir(self, _path: bytes, buffer: int, fill: Any, offset: int, info: Any) -> int:  # noqa: ANN401
        """From an offset on, as far as there is room: not all of a directory at once."""
        while records := self.operations("readdir", None, info.contents.fh, offset):
            for record in records:
                if not _filled(buffer, fill, record):
                    return 0
                offset = record.offset
        return 0

    def utimens(self, path: bytes, times: Any) -> int:  # noqa: ANN401
        """Now, or not at all: fusepy makes a number of nanoseconds of either."""
        both = tuple(map(_nanoseconds, (times.contents.actime, times.contents.modtime)))
        self.operations("utimens", path.decode(ENCODING), both)
        return 0


def _filled(buffer: int, fill: Any, record: Record) -> bool:  # noqa: ANN401
    """Add a record; tell whether there was room for it."""
    shown = fuse.c_stat()
    fuse.set_st_attrs(shown, record.attributes, use_ns=True)
    return not fill(buffer, record.name.encode(ENCODING), shown, record.offset)


def _nanoseconds(when: Any) -> int | None:  # noqa: ANN401
    """Read one struct timespec of utimensat(2)."""
    if when.tv_nsec == _UTIME_OMIT:
        return None
    if when.tv_nsec == _UTIME_NOW:
        return time.time_ns()
    return int(when.tv_sec) * _SECOND + int(when.tv_nsec)


def _answer(method: Callable[..., int | None], *arguments: Any) -> int:  # noqa: ANN401
    """Call a method; its result, or a negative errno. What leaves it to C would count as 0."""
    try:
        return method(*arguments) or 0
    except FailedError as error:
        return -error.errno
    except BaseException as error:  # noqa: BLE001  see above
        _log.error("this is a bug", exc_info=error)
        return -errno.EIO


class _Call:
    """One operation on its way."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def run(
        self, adapter: PortableAdapter, caller: Caller, arguments: tuple[Any, ...]
    ) -> Any:  # noqa: ANN401
        """Do it, on the loop."""
        self._task = asyncio.current_task()
        return await adapter.serve(caller, *arguments)

    def interrupt(self) -> None:
        """End it, on the loop."""
        if self._task is not None:
            self._task.cancel()


class LibfuseServer:
    """Serves a descriptor of /dev/fuse, behind which there is a mount."""

    def __init__(self, device: int, adapter: PortableAdapter) -> None:
        self._library = _library()
        self._device = device
        self._adapter = adapter
        self._loop = asyncio.get_running_loop()

    def start(self, ended: Callable[[bool], None]) -> None:
        """Begin; in the end `ended` is called on the loop, and told whether all went well.

        libfuse has closed the descriptor by then, and no operation is under way any more.
        """

        def run() -> None:
            well = self._run()
            self._loop.call_soon_threadsafe(ended, well)

        threading.Thread(target=run, name="libfuse", daemon=True).start()

    def _run(self) -> bool:
        # libfuse waits in read(2).
        flags = fcntl.fcntl(self._device, fcntl.F_GETFL)
        fcntl.fcntl(self._device, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
        library, table = self._library, _Calls(self._operation).table()
        words = [b"fuse-s3", b"-o", ",".join(_OPTIONS).encode()]
        arguments = _Arguments(len(words), (ctypes.c_char_p * len(words))(*words), 0)
        channel = library.fuse_kern_chan_new(self._device)
        state = _fuse_new(library)(
            channel, arguments, ctypes.byref(table), ctypes.sizeof(table), None
        )
        if not state:
            return False
        failed = library.fuse_loop_mt(state)
        library.fuse_destroy(state)
        return not failed

    def _operation(self, *arguments: Any) -> Any:  # noqa: ANN401
        """Have an operation done by the loop, and wait for it: called by libfuse's threads."""
        call, caller = _Call(), Caller(*fuse.fuse_get_context())
        done = asyncio.run_coroutine_threadsafe(
            call.run(self._adapter, caller, arguments), self._loop
        )
        while True:
            try:
                return done.result(_LOOK_EVERY)
            except TimeoutError:
                self._look_for_signal(call, arguments)
            except concurrent.futures.CancelledError:
                raise FailedError(errno.EINTR) from None

    def _look_for_signal(self, call: _Call, arguments: tuple[Any, ...]) -> None:
        if interruptible(arguments[0], arguments[1:]) and self._library.fuse_interrupted():
            self._loop.call_soon_threadsafe(call.interrupt)

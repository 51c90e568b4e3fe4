"""What `fuse-s3 staged` has done in a cache directory: listing, discarding, saving a copy.

What lies there was written by a worker, and a worker may have been taken over; so nobody reads it
with more rights than the directory's owner has. The command starts this as that user, in a sandbox
where nothing but the directory can be reached. Answers are lines of JSON on standard output, a copy
goes into the file that standard output is. The bucket is not asked; see `errand`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator

from fuse_s3_worker import sandbox
from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.transfer.extents import Extent
from fuse_s3_worker.transfer.journal import Description, JournalError
from fuse_s3_worker.transfer.recovery import Left, what_is_left
from fuse_s3_worker.transfer.stagedir import CacheDirectoryError, EntryInUseError, StageDirectory

__all__ = ["main"]

_PIECE = MIB  # bytes that are copied at once
_STANDARD_OUTPUT = 1

_ABOUT = ("spec", "options", "files", "endpoint")


class NotDoneError(Exception):
    """Something was not done; one line for the user."""


def main() -> int:
    """Do one thing in one cache directory; return an exit status."""
    parser = argparse.ArgumentParser(prog="fuse-s3 staged")
    parser.add_argument("cache")
    parser.add_argument("action", choices=sorted(_ACTIONS))
    parser.add_argument("ids", nargs="*")
    parser.add_argument("--partial", action="store_true")
    given = parser.parse_args()
    level = sandbox.confine()
    sandbox.enter(level, "best-effort", sandbox.Needs(own=(given.cache,)))
    try:
        _ACTIONS[given.action](given)
    except (CacheDirectoryError, NotDoneError, OSError) as error:
        sys.stderr.write(f"fuse-s3: {error}\n")
        return 1
    return 0


# -- listing ---------------------------------------------------------------------------------------


def _list(given: argparse.Namespace) -> None:
    for directory in StageDirectory.all_in(given.cache):
        for left in what_is_left(directory):
            sys.stdout.write(f"{json.dumps(_told(directory, left))}\n")


def _told(directory: StageDirectory, left: Left) -> dict[str, object]:
    """Return what the command shows of a staged file, and what it needs to store it."""
    known, about = left.known, directory.about
    return {
        "id": left.entry_id,
        "state": known.state if known else "damaged",
        "in_use": directory.in_use(left.entry_id),
        "key": known.key if known else "",
        "problem": left.problem,
        "path": str(directory.path / f"{left.entry_id}.data"),
        **_sizes(known),
        **{name: about.get(name, "") for name in _ABOUT},
    }


def _sizes(known: Description | None) -> dict[str, int]:
    if known is None:
        return {"size": 0, "written": 0, "missing": 0, "mtime": 0}
    return {
        "size": known.size,
        "written": known.written,
        "missing": sum(extent.size for extent in known.extents if extent.missing),
        "mtime": known.mtime,
    }


# -- one staged file -------------------------------------------------------------------------------


def _find(cache: str, entry_id: str) -> StageDirectory:
    """Return the directory that has a staged file."""
    for directory in StageDirectory.all_in(cache):
        if entry_id in directory.ids():
            return directory
    raise NotDoneError(f"{cache} has no staged file {entry_id}")


def _discard(given: argparse.Namespace) -> None:
    failed = []
    for entry_id in given.ids:
        try:
            _find(given.cache, entry_id).discard(entry_id)
        except EntryInUseError:
            failed.append(f"{entry_id} is in use: unmount first, or wait until it is stored")
        except (NotDoneError, OSError) as error:
            failed.append(str(error))
    if failed:
        raise NotDoneError("\nfuse-s3: ".join(failed))


def _save(given: argparse.Namespace) -> None:
    """Copy a staged file, with holes where it has holes, into what standard output is."""
    (entry_id,) = given.ids
    directory = _find(given.cache, entry_id)
    try:
        entry, known = directory.hold(entry_id)
    except EntryInUseError:
        raise NotDoneError(f"{entry_id} is in use: what is being written has no copy") from None
    except JournalError as error:
        text = f"what belongs where in {directory.path / entry_id}.data is not known: {error}"
        raise NotDoneError(text) from None
    try:
        missing = sum(extent.size for extent in known.extents if extent.missing)
        if missing and not given.partial:
            raise NotDoneError(
                f"{missing} of its {known.size} bytes are not on this machine: they are those of "
                "the version it goes on from. --partial saves zeros in their places"
            )
        os.ftruncate(_STANDARD_OUTPUT, known.size)
        for extent in known.extents:
            if extent.local:
                _copy(entry.fd, extent)
        os.fsync(_STANDARD_OUTPUT)
    finally:
        entry.close()


def _copy(fd: int, extent: Extent) -> None:
    at = extent.start
    for piece in _pieces(fd, extent):
        view = memoryview(piece)
        while view:
            taken = os.pwrite(_STANDARD_OUTPUT, view, at)
            at, view = at + taken, view[taken:]
    if at != extent.end:
        raise NotDoneError(f"the bytes from {at} on are missing")


def _pieces(fd: int, extent: Extent) -> Iterator[bytes]:
    at = extent.start
    while piece := os.pread(fd, min(_PIECE, extent.end - at), at):
        at += len(piece)
        yield piece


_ACTIONS: dict[str, Callable[[argparse.Namespace], None]] = {
    "list": _list,
    "discard": _discard,
    "save": _save,
}

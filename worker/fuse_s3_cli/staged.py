"""`fuse-s3 staged`: what is left in cache directories, and what becomes of it.

A file that was closed and not stored is stored by the next mount of its bucket by itself. What is
left after that, somebody has to decide on: half of a change, what another client was faster with,
what cannot be read any more. This command shows it, and does what it is told.
"""

import argparse
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from fuse_s3_cli.caches import (
    CommandError,
    Staged,
    do_there,
    known_caches,
    run_errand,
    staged_in,
)

__all__ = ["run"]

_STATES = {
    "committing": "waiting",  # closed or fsynced: stored by the next mount
    "open": "interrupted",  # half of a change
    "conflict": "conflict",  # another client was faster
    "damaged": "damaged",
}
_WAITING = "waiting"
_SHOWN = ("id", "state", "size", "written", "changed", "bucket", "key")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_UNIT = 1024


def run(arguments: list[str]) -> int:
    """Do what the command line says; return an exit status: 1 when something was not done."""
    parser = argparse.ArgumentParser(
        prog="fuse-s3 staged", description="What is left in cache directories."
    )
    parser.add_argument("action", nargs="?", default="list", choices=list(_ACTIONS))
    parser.add_argument("names", nargs="*", metavar="ID|KEY", help="which; without any, all")
    parser.add_argument("--cache", action="append", metavar="DIRECTORY", help="where to look")
    parser.add_argument("--json", action="store_true", help="list: a line of JSON for each")
    parser.add_argument(
        "--replace", action="store_true", help="upload: over what another client has stored, too"
    )
    parser.add_argument("--all", action="store_true", help="discard: without naming any")
    parser.add_argument("--yes", action="store_true", help="discard: without asking")
    parser.add_argument(
        "--partial", action="store_true", help="save: zeros for what cannot be had any more"
    )
    given = parser.parse_intermixed_args(arguments)
    try:
        return int(not _ACTIONS[given.action](given))
    except CommandError as error:
        _say(str(error))
        return 1


def _say(text: str) -> None:
    sys.stderr.write(f"fuse-s3: {text}\n")


# -- which -----------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """What is left, and whether every directory could be looked into."""

    staged: list[Staged]
    whole: bool


def _look(given: argparse.Namespace) -> _Found:
    """Look into all directories; what is wrong with one does not keep the others back."""
    found, whole = list[Staged](), True
    caches = given.cache or known_caches()
    if not caches:
        _say("no mount has a cache directory: give --cache DIRECTORY")
    for cache in caches:
        try:
            found += staged_in(str(Path(cache).absolute()))
        except CommandError as error:
            _say(str(error))
            whole = False
    return _Found(found, whole)


def _chosen(staged: Sequence[Staged], names: Sequence[str]) -> list[Staged]:
    """Return those with these ids or keys.

    Raises:
        CommandError: nothing has this name.
    """
    for name in names:
        if not any(name in {one.id, one.key} for one in staged):
            raise CommandError(f"nothing is left of '{name}': see fuse-s3 staged list")
    return [one for one in staged if not names or one.id in names or one.key in names]


def _state(one: Staged) -> str:
    return "in use" if one.in_use else _STATES[one.state]


# -- list ------------------------------------------------------------------------------------------


def _list(given: argparse.Namespace) -> bool:
    found = _look(given)
    chosen = _chosen(found.staged, given.names)
    if given.json:
        for one in chosen:
            print(json.dumps(one._asdict() | {"state": _STATES[one.state]}))
    elif chosen:
        _print_table([_SHOWN, *map(_row, chosen)])
        for one in chosen:
            if one.problem:
                _say(f"{one.path}: {one.problem}")
    return found.whole


def _row(one: Staged) -> tuple[str, ...]:
    sizes = (_size(one.size), _size(one.written))
    changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.mtime // 1_000_000_000))
    # What others named may have anything in it; a terminal gets nothing but text.
    key = one.key if one.key.isprintable() else ascii(one.key)
    return (one.id, _state(one), *sizes, changed, one.spec, key)


def _size(count: float) -> str:
    unit = 0
    while count >= _UNIT and unit < len(_UNITS) - 1:
        count, unit = count / _UNIT, unit + 1
    return f"{count:.1f} {_UNITS[unit]}" if unit else f"{count:.0f} B"


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        )


# -- upload ----------------------------------------------------------------------------------------


def _upload(given: argparse.Namespace) -> bool:
    """Store what was named, or all that waits for it; tell whether it is all stored."""
    found = _look(given)
    chosen = _chosen(found.staged, given.names)
    if not given.names:
        chosen = [one for one in chosen if _state(one) == _WAITING]
    done = [_upload_those(place, replace=given.replace) for place in _by_bucket(chosen)]
    return found.whole and all(done)


def _by_bucket(staged: Sequence[Staged]) -> Iterator[list[Staged]]:
    """Yield what is in one directory, which is for one bucket and prefix, together."""

    def directory(one: Staged) -> str:
        return str(Path(one.path).parent)

    for _, group in groupby(sorted(staged, key=directory), key=directory):
        yield list(group)


def _upload_those(staged: list[Staged], *, replace: bool) -> bool:
    try:
        run_errand("replace" if replace else "upload", staged)
    except CommandError as error:
        _say(str(error))
        return False
    left = {one.id for one in staged_in(staged[0].cache)}
    for one in staged:
        print(f"{'kept' if one.id in left else 'stored'}  {one.id}  {one.key}")
    return not any(one.id in left for one in staged)


# -- discard ---------------------------------------------------------------------------------------


def _discard(given: argparse.Namespace) -> bool:
    if not (given.names or given.all):
        raise CommandError("name what to discard, by ID or KEY, or say --all")
    found = _look(given)
    chosen = _chosen(found.staged, given.names)
    if chosen and not (given.yes or _agreed(chosen)):
        return False
    done = [_discarded(one) for one in chosen]
    return found.whole and all(done)


def _agreed(chosen: Sequence[Staged]) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("nobody can be asked here: say --yes to discard it")
    _print_table([_SHOWN, *map(_row, chosen)])
    written = _size(sum(one.written for one in chosen))
    answer = input(f"Discard this, {written} that are nowhere else? [y/N] ")
    return answer.strip().lower() in {"y", "yes"}


def _discarded(one: Staged) -> bool:
    try:
        do_there(one.cache, "discard", one.id)
    except CommandError as error:
        _say(str(error))
        return False
    print(f"discarded  {one.id}  {one.key}")
    return True


# -- save ------------------------------------------------------------------------------------------


def _save(given: argparse.Namespace) -> bool:
    """Save a copy of one staged file, with what only the bucket has of it, as a new file."""
    try:
        name, path = given.names
    except ValueError:
        text = "give one ID or KEY, and the path of a new file: save ID PATH"
        raise CommandError(text) from None
    chosen = _chosen(_look(given).staged, [name])
    if len(chosen) > 1:
        raise CommandError(f"more than one is left of '{name}': give the ID")
    (one,) = chosen
    if one.missing and not given.partial:
        run_errand("load", [one])
    _write_copy(one, Path(path), ["--partial"] if given.partial else [])
    return True


def _write_copy(one: Staged, path: Path, switches: list[str]) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}: give the path of a new file") from None
    with os.fdopen(fd, "wb") as file:
        try:
            do_there(one.cache, "save", one.id, *switches, output=file)
        except CommandError:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                path.unlink()  # half a copy is none
            raise


_ACTIONS: dict[str, Callable[[argparse.Namespace], bool]] = {
    "list": _list,
    "upload": _upload,
    "discard": _discard,
    "save": _save,
}

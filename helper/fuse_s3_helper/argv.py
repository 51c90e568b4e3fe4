"""Step 1: the argument vector becomes a frozen MountRequest, or one line that says why not.

mount(8) calls `mount.s3 SPEC DIR [-sfnv] [-N NS] [-o OPTIONS] [-t TYPE]`, in that order; a
person may use any order. SPEC can be absent or empty: libmount passes on what it has.
"""

import getopt
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from fuse_s3_helper.errors import UsageError
from fuse_s3_helper.files import FILE_OPTIONS
from fuse_s3_helper.words import FLAGS, IGNORED, IGNORED_PREFIXES, LSM, OWN, Flag
from fuse_s3_shared.mountopts import MountOption, OptionSyntaxError, join_options, split_options

USAGE = "usage: mount.s3 SPEC DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]"

_ACTIONS = {"-h": "help", "--help": "help", "-V": "version", "--version": "version"}

_OWNERS = {
    "flags": FLAGS.keys(), "lsm": LSM, "own": OWN, "files": FILE_OPTIONS.keys(), "nobody": IGNORED
}  # fmt: skip


class MountRequest(NamedTuple):
    """Everything that was asked for, sorted by who acts on it.

    `action` is mount, remount, help or version. `given` has the switches, with their hyphens, and
    our own words, each with its value. `worker_options` is text that nobody here reads.
    """

    action: str
    spec: str = ""
    directory: str = ""
    given: Mapping[str, str | None] = MappingProxyType({})
    flags: tuple[Flag, ...] = ()
    lsm: tuple[MountOption, ...] = ()
    files: Mapping[str, str] = MappingProxyType({})
    worker_options: str = ""


def parse(argv: list[str]) -> MountRequest:
    """Return the request in `argv` (with the program's name first).

    Raises:
        UsageError: it is not one; the text names the word and the next step.
    """
    try:
        switches, words = getopt.gnu_getopt(argv[1:], "sfnvhVo:t:N:", ["help", "version"])
        options = split_options(",".join(value for switch, value in switches if switch == "-o"))
    except (getopt.GetoptError, OptionSyntaxError) as error:
        raise UsageError(f"{error}; {USAGE}") from None
    for switch in dict(switches).keys() & _ACTIONS.keys():
        return MountRequest(_ACTIONS[switch])
    of: dict[str, list[MountOption]] = {owner: [] for owner in (*_OWNERS, "worker")}
    for option in options:
        of[_owner(option.name)].append(option)
    own = _own(of["own"])
    action = "remount" if "remount" in own else "mount"
    spec, directory = _operands(words, spec_needed=action == "mount")
    given = {switch: value for switch, value in switches if switch != "-o"} | own
    flags, files = _flags(of["flags"]), _files(of["files"])
    text = join_options(of["worker"])
    return MountRequest(action, spec, directory, given, flags, tuple(of["lsm"]), files, text)


def _owner(name: str) -> str:
    if name.startswith(IGNORED_PREFIXES):
        return "nobody"
    return next((owner for owner, names in _OWNERS.items() if name in names), "worker")


def _operands(words: list[str], *, spec_needed: bool) -> tuple[str, str]:
    # libmount leaves out a SPEC that it does not know, so a lone word is the directory on remount.
    if len(words) == 1 and not spec_needed:
        words = ["", *words]
    match words:
        case [spec, directory] if directory and (spec or not spec_needed):
            if spec_needed and os.path.isdir(spec) and not os.path.isdir(directory):
                raise UsageError(
                    f"'{spec}' is a directory and '{directory}' is not: the bucket comes first, "
                    f"as in: mount -t s3 {directory} {spec}"
                )
            return spec, directory
    raise UsageError(f"a bucket and a directory are needed; {USAGE}")


def _own(options: list[MountOption]) -> dict[str, str | None]:
    for name, value in options:
        if (name == "worker_user") != bool(value):
            raise UsageError(f"option '{name}' {'takes no' if value else 'needs a'} value")
    return dict(options)


def _flags(options: list[MountOption]) -> tuple[Flag, ...]:
    """Let the later word win, as mount(8) does."""
    if {"ro", "rw"} <= {option.name for option in options}:
        raise UsageError("both ro and rw are given: keep one of them")
    last: dict[int, Flag] = {}
    # libmount puts a `rw` in front of whatever it does not know, `read-only` too.
    for option in sorted(options, key=lambda option: option.name != "rw"):
        if option.value is not None:
            raise UsageError(f"option '{option.name}' takes no value")
        last[FLAGS[option.name].ms] = FLAGS[option.name]
    return tuple(flag for flag in last.values() if flag.on and flag.ms)


def _files(options: list[MountOption]) -> dict[str, str]:
    files = {}
    for name, path in options:
        if not path or not os.path.isabs(path):
            raise UsageError(f"option '{name}' needs an absolute path, as in {name}=/etc/...")
        files[FILE_OPTIONS[name]] = path
    return files

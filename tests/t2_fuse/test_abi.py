"""Layouts and constants against linux/fuse.h itself, as the C compiler sees it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from struct import Struct, calcsize
from typing import NamedTuple

import pytest

from fuse_s3_worker.fuse import abi
from fuse_s3_worker.fuse.abi import Fattr, FopenFlag, InitFlag, NotifyCode, Opcode

HEADER = Path("/usr/include/linux/fuse.h")


class Layout(NamedTuple):
    """One structure: its fields in order, each with the minor version that it came with.

    `inner` is a structure at its end that has a layout of its own.
    """

    layout: Struct
    c_name: str
    fields: str
    inner: Struct | None = None


LAYOUTS = {
    "IN_HEADER": Layout(
        abi.IN_HEADER,
        "fuse_in_header",
        "len opcode unique nodeid uid gid pid total_extlen:38 padding",
    ),
    "OUT_HEADER": Layout(abi.OUT_HEADER, "fuse_out_header", "len error unique"),
    "ATTR": Layout(
        abi.ATTR,
        "fuse_attr",
        "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev "
        "blksize flags",
    ),
    "ENTRY": Layout(
        abi.ENTRY,
        "fuse_entry_out",
        "nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec",
        abi.ATTR,
    ),
    "ATTR_OUT": Layout(abi.ATTR_OUT, "fuse_attr_out", "attr_valid attr_valid_nsec dummy", abi.ATTR),
    "OPEN_OUT": Layout(abi.OPEN_OUT, "fuse_open_out", "fh open_flags backing_id:40"),
    "WRITE_OUT": Layout(abi.WRITE_OUT, "fuse_write_out", "size padding"),
    "KSTATFS": Layout(
        abi.KSTATFS, "fuse_kstatfs", "blocks bfree bavail files ffree bsize namelen frsize padding"
    ),
    "DIRENT": Layout(abi.DIRENT, "fuse_dirent", "ino off namelen type"),
    "INIT_IN_EXT": Layout(
        abi.INIT_IN_EXT, "fuse_init_in", "major minor max_readahead flags flags2:36"
    ),
    "INIT_OUT": Layout(
        abi.INIT_OUT,
        "fuse_init_out",
        "major minor max_readahead flags max_background congestion_threshold max_write time_gran "
        "max_pages map_alignment flags2:36 max_stack_depth:40 request_timeout:43",
    ),
    "GETATTR_IN": Layout(abi.GETATTR_IN, "fuse_getattr_in", "getattr_flags dummy fh"),
    "SETATTR_IN": Layout(
        abi.SETATTR_IN,
        "fuse_setattr_in",
        "valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode "
        "unused4 uid gid unused5",
    ),
    "MKNOD_IN": Layout(abi.MKNOD_IN, "fuse_mknod_in", "mode rdev umask padding"),
    "MKDIR_IN": Layout(abi.MKDIR_IN, "fuse_mkdir_in", "mode umask"),
    "OPEN_IN": Layout(abi.OPEN_IN, "fuse_open_in", "flags open_flags:34"),
    "CREATE_IN": Layout(abi.CREATE_IN, "fuse_create_in", "flags mode umask open_flags:34"),
    "READ_IN": Layout(
        abi.READ_IN, "fuse_read_in", "fh offset size read_flags lock_owner flags padding"
    ),
    "WRITE_IN": Layout(
        abi.WRITE_IN, "fuse_write_in", "fh offset size write_flags lock_owner flags padding"
    ),
    "RELEASE_IN": Layout(abi.RELEASE_IN, "fuse_release_in", "fh flags release_flags lock_owner"),
    "FLUSH_IN": Layout(abi.FLUSH_IN, "fuse_flush_in", "fh unused padding lock_owner"),
    "FSYNC_IN": Layout(abi.FSYNC_IN, "fuse_fsync_in", "fh fsync_flags padding"),
    "ACCESS_IN": Layout(abi.ACCESS_IN, "fuse_access_in", "mask padding"),
    "FORGET_IN": Layout(abi.FORGET_IN, "fuse_forget_in", "nlookup"),
    "BATCH_FORGET_IN": Layout(abi.BATCH_FORGET_IN, "fuse_batch_forget_in", "count dummy"),
    "FORGET_ONE": Layout(abi.FORGET_ONE, "fuse_forget_one", "nodeid nlookup"),
    "INTERRUPT_IN": Layout(abi.INTERRUPT_IN, "fuse_interrupt_in", "unique"),
    "LINK_IN": Layout(abi.LINK_IN, "fuse_link_in", "oldnodeid"),
    "SETXATTR_IN": Layout(
        abi.SETXATTR_IN, "fuse_setxattr_in", "size flags setxattr_flags:33 padding:33"
    ),
    "GETXATTR_IN": Layout(abi.GETXATTR_IN, "fuse_getxattr_in", "size padding"),
    "GETXATTR_OUT": Layout(abi.GETXATTR_OUT, "fuse_getxattr_out", "size padding"),
    "RENAME_IN": Layout(abi.RENAME_IN, "fuse_rename_in", "newdir"),
    "FALLOCATE_IN": Layout(abi.FALLOCATE_IN, "fuse_fallocate_in", "fh offset length mode padding"),
    "LSEEK_IN": Layout(abi.LSEEK_IN, "fuse_lseek_in", "fh offset whence padding"),
    "LSEEK_OUT": Layout(abi.LSEEK_OUT, "fuse_lseek_out", "offset"),
    "COPY_FILE_RANGE_IN": Layout(
        abi.COPY_FILE_RANGE_IN,
        "fuse_copy_file_range_in",
        "fh_in off_in nodeid_out fh_out off_out len flags",
    ),
    "RENAME2_IN": Layout(abi.RENAME2_IN, "fuse_rename2_in", "newdir flags padding"),
    "NOTIFY_INVAL_INODE": Layout(
        abi.NOTIFY_INVAL_INODE, "fuse_notify_inval_inode_out", "ino off len"
    ),
    "NOTIFY_INVAL_ENTRY": Layout(
        abi.NOTIFY_INVAL_ENTRY, "fuse_notify_inval_entry_out", "parent namelen flags:38"
    ),
}

# Short forms of INIT_IN_EXT and SETXATTR_IN: tests of their own.
SHORT_FORMS = {"INIT_IN", "SETXATTR_IN_COMPAT"}

# Structures that came later than the headers that can be had.
LATER = {"COPY_FILE_RANGE_OUT"}  # 7.45, fuse_copy_file_range_out: bytes_copied

# The minor version that an opcode or a notification came with, where it matters.
SINCE = {
    "FUSE_SYNCFS": 34,
    "FUSE_TMPFILE": 37,
    "FUSE_STATX": 39,
    "FUSE_COPY_FILE_RANGE_64": 45,
    "FUSE_NOTIFY_RESEND": 40,
    "FUSE_NOTIFY_INC_EPOCH": 44,
}

CONSTANTS: dict[str, int] = {
    "FUSE_KERNEL_VERSION": abi.KERNEL_VERSION,
    "FUSE_ROOT_ID": abi.ROOT_ID,
    "FUSE_MIN_READ_BUFFER": abi.MIN_READ_BUFFER,
    "FUSE_GETATTR_FH": abi.GETATTR_FH,
    "FUSE_WRITE_CACHE": abi.WRITE_CACHE,
    "FUSE_FSYNC_FDATASYNC": abi.FSYNC_FDATASYNC,
    "FUSE_RELEASE_FLUSH": abi.RELEASE_FLUSH,
    "FUSE_OPEN_KILL_SUIDGID": abi.OPEN_KILL_SUIDGID,
    "FUSE_WRITE_KILL_SUIDGID": abi.WRITE_KILL_SUIDGID,
    "FUSE_SETXATTR_ACL_KILL_SGID": abi.SETXATTR_ACL_KILL_SGID,
    "FUSE_COMPAT_SETXATTR_IN_SIZE": abi.SETXATTR_IN_COMPAT.size,
    "FUSE_UNIQUE_RESEND": abi.UNIQUE_RESEND,
    # __members__ has the aliases too, which a slip of a digit would make.
    **{f"FUSE_{name}": flag.value for name, flag in InitFlag.__members__.items()},
    **{f"FATTR_{name}": flag.value for name, flag in Fattr.__members__.items()},
    **{f"FOPEN_{name}": flag.value for name, flag in FopenFlag.__members__.items()},
}
ENUMERATORS: dict[str, int] = {
    **{f"FUSE_{name}": opcode.value for name, opcode in Opcode.__members__.items()},
    **{f"FUSE_NOTIFY_{name}": code.value for name, code in NotifyCode.__members__.items()},
}


def needs(condition: object, what: str) -> None:
    """Leave the test out; what is left out is reported at the end of the run."""
    if not condition:
        pytest.skip(f"{what} is missing: layouts are not compared with linux/fuse.h")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the compiler says: sizes, offsets, constants and the version of the header."""
    needs(HEADER.exists(), str(HEADER))
    compiler = shutil.which("gcc") or shutil.which("cc")
    needs(compiler, "a C compiler")
    directory = tmp_path_factory.mktemp("abi")
    (directory / "facts.c").write_text("\n".join(program()))
    command = [str(compiler), "-Wall", "-Werror", "-o", "facts", "facts.c"]
    subprocess.run(command, cwd=directory, check=True)
    done = subprocess.run(directory / "facts", capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in map(str.split, done.stdout.splitlines())}


def program() -> Iterator[str]:
    """Write a C program that prints the facts which its header knows."""
    yield "#include <stddef.h>\n#include <stdio.h>\n#include <linux/fuse.h>"
    yield "#define MINOR FUSE_KERNEL_MINOR_VERSION"
    # 1 << 31 is an int in C, and not to be shown as a negative one.
    yield "#define PLAIN(value) (sizeof(value) == 4 ? (unsigned)(value) : (value))"
    yield '#define SHOW(name, value) printf("%s %llu\\n", name, (unsigned long long)PLAIN(value))'
    yield 'int main(void)\n{\n    SHOW("MINOR", MINOR);'
    for layout in LAYOUTS.values():
        struct = f"struct {layout.c_name}"
        yield f'    SHOW("{layout.c_name}", sizeof({struct}));'
        for name, since in fields_of(layout):
            where = f"{layout.c_name}.{name}"
            yield f"#if MINOR >= {since}"
            yield f'    SHOW("{where}", offsetof({struct}, {name}));'
            yield f'    SHOW("{where}.size", sizeof((({struct} *)0)->{name}));\n#endif'
    for name in CONSTANTS:
        yield f'#ifdef {name}\n    SHOW("{name}", {name});\n#endif'
    for name in ENUMERATORS:
        yield f'#if MINOR >= {SINCE.get(name, 0)}\n    SHOW("{name}", {name});\n#endif'
    yield '    SHOW("direntplus", offsetof(struct fuse_direntplus, dirent));'
    yield "    return 0;\n}\n"


def fields_of(layout: Layout) -> list[tuple[str, int]]:
    words = (word.partition(":") for word in layout.fields.split())
    return [(name, int(since or 0)) for name, _, since in words]


def places(layout: Struct) -> list[tuple[int, int]]:
    """Return offset and size of every value that a format has, without the padding."""
    assert layout.format.startswith("<")
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format[1:]):
        size = calcsize(f"<{code}")
        for _ in range(int(count or 1)):
            if code != "x":
                found.append((at, size))
            at += size
    assert at == layout.size
    return found


# -- without a compiler ----------------------------------------------------------------------------


def test_every_layout_is_compared() -> None:
    known = {name for name, value in vars(abi).items() if isinstance(value, Struct)}
    assert LAYOUTS.keys() | SHORT_FORMS | LATER == known


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_value_has_a_name(name: str) -> None:
    assert len(places(LAYOUTS[name].layout)) == len(LAYOUTS[name].fields.split())


def test_the_short_form_of_init_is_its_beginning() -> None:
    assert places(abi.INIT_IN) == places(abi.INIT_IN_EXT)[:4]
    assert abi.INIT_IN.size == 16


def test_what_came_later() -> None:
    assert places(abi.COPY_FILE_RANGE_OUT) == [(0, 8)]


def test_the_short_form_of_setxattr_is_its_beginning() -> None:
    assert places(abi.SETXATTR_IN_COMPAT) == places(abi.SETXATTR_IN)[:2]


def test_everything_is_little_endian_and_without_hidden_padding() -> None:
    assert {value.format[0] for value in vars(abi).values() if isinstance(value, Struct)} == {"<"}


# -- against the header ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(facts: dict[str, int], name: str) -> None:
    layout = LAYOUTS[name]
    inner = layout.inner.size if layout.inner else 0
    assert layout.layout.size + inner == facts[layout.c_name]
    for (field, since), (offset, size) in zip(
        fields_of(layout), places(layout.layout), strict=True
    ):
        where = f"{layout.c_name}.{field}"
        if since <= facts["MINOR"]:
            assert (facts[where], facts[f"{where}.size"]) == (offset, size), where


def test_a_record_of_readdirplus(facts: dict[str, int]) -> None:
    assert facts["direntplus"] == abi.ENTRY.size + abi.ATTR.size


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant(facts: dict[str, int], name: str) -> None:
    """A header that is older than a constant does not have it, and only then."""
    assert facts.get(name, CONSTANTS[name]) == CONSTANTS[name]


@pytest.mark.parametrize("name", ENUMERATORS)
def test_enumerator(facts: dict[str, int], name: str) -> None:
    assert (name in facts) == (facts["MINOR"] >= SINCE.get(name, 0))
    assert facts.get(name, ENUMERATORS[name]) == ENUMERATORS[name]


def test_most_constants_were_compared(facts: dict[str, int]) -> None:
    """A misspelt name would be missing from any header."""
    newer = {name for name in CONSTANTS if name not in facts}
    assert newer <= {
        "FUSE_CREATE_SUPP_GROUP",  # 7.38
        "FUSE_HAS_EXPIRE_ONLY",
        "FUSE_DIRECT_IO_ALLOW_MMAP",  # 7.39
        "FUSE_PASSTHROUGH",  # 7.40
        "FUSE_NO_EXPORT_SUPPORT",
        "FUSE_HAS_RESEND",
        "FOPEN_PASSTHROUGH",
        "FUSE_UNIQUE_RESEND",
        "FUSE_ALLOW_IDMAP",  # 7.41
        "FUSE_OVER_IO_URING",  # 7.42
        "FUSE_REQUEST_TIMEOUT",  # 7.43
    }

"""Constants and layouts of include/uapi/linux/fuse.h, protocol 7.45, under the kernel's names.

Nothing here has an opinion: what a field means and which flag is wanted lives next door. All
structures are little-endian here because every machine this runs on is; fuse.h is in host order.
"""

from enum import IntEnum, IntFlag
from struct import Struct

KERNEL_VERSION = 7
KERNEL_MINOR_VERSION = 45
KERNEL_MINOR_MINIMUM = 31  # INIT_EXT's predecessors: EXPLICIT_INVAL_DATA and MAX_PAGES are there

ROOT_ID = 1
UNIQUE_RESEND = 1 << 63
MIN_READ_BUFFER = 8192


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(IntFlag):
    """FUSE_* flags of INIT; bits 32 and up travel in flags2."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    FILE_OPS = 1 << 2
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    INIT_RESERVED = 1 << 31
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


class Fattr(IntFlag):
    """FATTR_*: which fields of setattr_in count."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


class FopenFlag(IntFlag):
    """FOPEN_*: the server's say on an open file or directory."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


class NotifyCode(IntEnum):
    """enum fuse_notify_code; sent as the error field of a header whose unique is 0."""

    POLL = 1
    INVAL_INODE = 2
    INVAL_ENTRY = 3
    STORE = 4
    RETRIEVE = 5
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8


GETATTR_FH = 1 << 0
WRITE_CACHE = 1 << 0
FSYNC_FDATASYNC = 1 << 0
RELEASE_FLUSH = 1 << 0
OPEN_KILL_SUIDGID = 1 << 0  # open_flags of OPEN and CREATE
WRITE_KILL_SUIDGID = 1 << 2  # write_flags
SETXATTR_ACL_KILL_SGID = 1 << 0  # setxattr_flags

IN_HEADER = Struct("<IIQQIIIHH")  # len opcode unique nodeid uid gid pid total_extlen padding
OUT_HEADER = Struct("<IiQ")  # len error unique

ATTR = Struct("<6Q10I")
# ino size blocks atime mtime ctime | atimensec mtimensec ctimensec mode nlink uid gid rdev blksize
# flags
ENTRY = Struct("<4Q2I")  # nodeid generation entry_valid attr_valid entry_valid_nsec attr_valid_nsec
ATTR_OUT = Struct("<QII")  # attr_valid attr_valid_nsec dummy, then ATTR
OPEN_OUT = Struct("<QIi")  # fh open_flags backing_id
WRITE_OUT = Struct("<II")  # size padding
KSTATFS = Struct(
    "<5Q4I24x"
)  # blocks bfree bavail files ffree | bsize namelen frsize padding, spare
DIRENT = Struct("<QQII")  # ino off namelen type, then the name, padded to 8

INIT_IN = Struct("<IIII")  # major minor max_readahead flags: all that kernels before 7.36 send
INIT_IN_EXT = Struct("<IIIII44x")  # and flags2, unused[11]
INIT_OUT = Struct("<IIIIHHIIHHIIH22x")
# major minor max_readahead flags | max_background congestion_threshold max_write time_gran
# max_pages map_alignment flags2 max_stack_depth request_timeout, unused[11]

GETATTR_IN = Struct("<IIQ")  # getattr_flags dummy fh
SETATTR_IN = Struct("<IIQQQQQQIIIIIIII")
# valid padding fh size lock_owner atime mtime ctime | atimensec mtimensec ctimensec mode unused4
# uid gid unused5
MKNOD_IN = Struct("<IIII")  # mode rdev umask padding, then name
MKDIR_IN = Struct("<II")  # mode umask, then name
OPEN_IN = Struct("<II")  # flags open_flags
CREATE_IN = Struct("<IIII")  # flags mode umask open_flags, then name
READ_IN = Struct("<QQIIQII")  # fh offset size read_flags lock_owner flags padding
WRITE_IN = Struct("<QQIIQII")  # fh offset size write_flags lock_owner flags padding, then data
RELEASE_IN = Struct("<QIIQ")  # fh flags release_flags lock_owner
FLUSH_IN = Struct("<QIIQ")  # fh unused padding lock_owner
FSYNC_IN = Struct("<QII")  # fh fsync_flags padding
ACCESS_IN = Struct("<II")  # mask padding
FORGET_IN = Struct("<Q")  # nlookup
BATCH_FORGET_IN = Struct("<II")  # count dummy, then FORGET_ONE each
FORGET_ONE = Struct("<QQ")  # nodeid nlookup
INTERRUPT_IN = Struct("<Q")  # unique
LINK_IN = Struct("<Q")  # oldnodeid, then name
SETXATTR_IN_COMPAT = Struct("<II")  # size flags: all there is without FUSE_SETXATTR_EXT
SETXATTR_IN = Struct("<IIII")  # and setxattr_flags padding, then name and value
GETXATTR_IN = Struct("<II")  # size padding, then name (not for LISTXATTR)
GETXATTR_OUT = Struct("<II")  # size padding
FALLOCATE_IN = Struct("<QQQII")  # fh offset length mode padding
LSEEK_IN = Struct("<QQII")  # fh offset whence padding
LSEEK_OUT = Struct("<Q")  # offset
COPY_FILE_RANGE_IN = Struct("<7Q")  # fh_in off_in nodeid_out fh_out off_out len flags
COPY_FILE_RANGE_OUT = Struct("<Q")  # bytes_copied
RENAME_IN = Struct("<Q")  # newdir, then oldname and newname
RENAME2_IN = Struct("<QII")  # newdir flags padding, then oldname and newname

NOTIFY_INVAL_INODE = Struct("<Qqq")  # ino off len
NOTIFY_INVAL_ENTRY = Struct("<QII")  # parent namelen flags, then the name and a NUL

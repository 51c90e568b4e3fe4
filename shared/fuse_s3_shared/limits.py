"""Every limit that helper and worker agree on, each with its reason."""

# The handoff protocol spoken here. HELLO carries the worker's range, so both can move on.
PROTOCOL_VERSION = 2

# Bytes in one handoff packet: well under the default socket buffer, well over any option line.
PACKET_MAX = 64 * 1024

# Bytes of option text. mount(2) takes one page; an fstab line is shorter than that.
OPTIONS_MAX = 32 * 1024

# Bytes in a path or in SPEC: the kernel's own PATH_MAX.
PATH_MAX = 4096

# Bytes of a worker's reason for refusing: one line on a terminal or in the journal.
REASON_MAX = 512

# Bytes in a file that the helper reads for the worker. A CA bundle has a quarter of this.
FILE_MAX = 1024 * 1024

# Seconds until mount gives up on a worker: users and systemd expect an answer by then.
START_DEADLINE = 30.0

# Seconds until the first word of a worker that systemd starts; then the helper starts one itself.
ACTIVATION_DEADLINE = 10.0

# Seconds that a refused or failed worker gets to leave before it is killed.
STOP_DEADLINE = 5.0

# Descriptors that are kept for a worker's successor: the device, its state, a file an option.
STORED_MAX = 16

# Bytes of data in one FUSE READ or WRITE: 256 pages, the kernel's default upper limit.
FUSE_REQUEST_MAX = 1024 * 1024

# Read-ahead of the mount, in KiB, so that sequential reads arrive as full requests.
READ_AHEAD_KIB = FUSE_REQUEST_MAX // 1024

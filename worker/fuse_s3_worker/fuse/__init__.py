"""The kernel's FUSE protocol: bytes to typed messages and back, without any I/O but in `channel`.

`abi` mirrors linux/fuse.h; `requests` and `replies` give its structures meaning; `opcodes` is the
table of what is served and how; `negotiate` answers INIT; `channel` owns the descriptor.
"""

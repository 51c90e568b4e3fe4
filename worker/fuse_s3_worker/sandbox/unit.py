"""The same table for a service manager: lines for the [Service] section of the worker's unit."""

from fuse_s3_worker.sandbox.allowed import CALLS, FAMILIES, NOT_THERE

__all__ = ["unit_lines"]

_SETTINGS = (
    ("NoNewPrivileges=yes", "no program gives it privileges"),
    ("LimitCORE=0", "a core file would have the credentials in it"),
    ("LimitMEMLOCK=0", "nothing here needs memory that cannot be swapped"),
    ("MemoryDenyWriteExecute=yes", "memory is not made executable after it was written"),
    ("RestrictNamespaces=yes", "an unprivileged process has all capabilities in its own"),
    ("RestrictRealtime=yes", "nor is it served before all others"),
    ("SystemCallArchitectures=native", "no second ABI, which would have its own numbers"),
    ("SystemCallErrorNumber=EPERM", "a library that tries has another way"),
)


def unit_lines() -> list[str]:
    """Return the lines, each directive below a comment with its reason."""
    lines = []
    for setting, why in _SETTINGS:
        lines += [f"# {why}", setting]
    lines += ["# the store and name servers; the log, the helper, the loop"]
    lines += [f"RestrictAddressFamilies={' '.join(FAMILIES)}"]
    for calls in CALLS:
        lines += [f"# {calls.why}", f"SystemCallFilter={calls.words}"]
    absent = " ".join(f"{name}:ENOSYS" for name in NOT_THERE)
    lines += [
        "# as if this kernel had none: then the C library starts threads with clone, and that"
    ]
    lines += ["# one's flags are looked at", f"SystemCallFilter=~{absent}"]
    return lines

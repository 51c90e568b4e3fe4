"""Loading libfuse: before the sandbox closes, since it is looked for in many places."""

import os

from fuse_s3_worker.config.parse import ConfigurationError

__all__ = ["MissingLibraryError", "load"]

_NAME = "libfuse.so.2"


class MissingLibraryError(ConfigurationError):
    """There is no libfuse; the message says what to install."""


def load() -> None:
    """Load libfuse and what calls it; `portable.binding` can be imported then.

    Raises:
        MissingLibraryError: the library is not there.
    """
    # By its name, as the loader finds it; fusepy would run ldconfig and a compiler to find it.
    os.environ["FUSE_LIBRARY_PATH"] = _NAME
    try:
        import fuse_s3_worker.portable.binding  # noqa: F401, PLC0415  loads it, so not for everybody
    except OSError as error:
        raise MissingLibraryError(
            f"engine=libfuse needs {_NAME}: {error}; install the package libfuse2 "
            "(libfuse2t64 on Debian 13, Ubuntu 24.04 and newer), or leave engine= out"
        ) from None

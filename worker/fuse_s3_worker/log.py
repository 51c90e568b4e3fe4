"""One line an event, `event key=value ...`, to the journal, syslog, a file or a terminal.

Secrets are kept out twice: nothing here is ever given a request's headers, and a filter that
knows the secrets in use, and the shapes of signatures, blots them out of whatever gets through.
"""

import io
import logging
import logging.handlers
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

__all__ = ["LEVELS", "Redaction", "event", "level_name", "quote", "set_up"]

LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}

_IDENTIFIER = "fuse-s3"
_JOURNAL = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_SECRET_MIN = 8
_LINE_MAX = 4096  # characters of one log line: a name has 255 bytes, a key 1,024, twice

# syslog(3) priorities, which the journal uses too
_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

_SIGNATURE = re.compile(
    r"(?i)((?:x-amz-signature|x-amz-security-token|x-amz-credential|signature|authorization)"
    r"['\"]?\s*[=:]\s*['\"]?(?:(?:basic|bearer)\s+)?)[^\s&,;\"']+"
)


def quote(value: object) -> str:
    """Return `value` as one word of a log line, quoted like a Python string unless plain."""
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if text and text.isascii() and text.isprintable() and not set(text) & {" ", '"', "=", "\\"}:
        return text
    return '"' + repr(text)[1:-1].replace('"', '\\"') + '"'


def event(
    logger: logging.Logger, level: int, name: str, details: Mapping[str, object] | None = None
) -> None:
    """Log the event `name` with its details, in their order; those that are None are left out."""
    if logger.isEnabledFor(level):
        words = [f"{key}={quote(v)}" for key, v in (details or {}).items() if v is not None]
        logger.log(level, "%s", " ".join([name, *words]))


class Redaction(logging.Filter):
    """Blots out secrets and signatures."""

    def __init__(self) -> None:
        super().__init__()
        self._secrets: set[str] = set()

    def add(self, *secrets: str | None) -> None:
        """Keep these out of the log from now on; short ones would blot out innocent text."""
        self._secrets |= {secret for secret in secrets if secret and len(secret) >= _SECRET_MIN}

    def clean(self, text: str) -> str:
        """Return `text` without what must not be seen."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _SIGNATURE.sub(r"\1***", text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record, its traceback included; let it pass."""
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        record.msg, record.args, record.exc_info = self.clean(text)[:_LINE_MAX], None, None
        return True


class JournalHandler(logging.Handler):
    """Sends records to systemd-journald in its native protocol (systemd.journal-fields(7))."""

    def __init__(self, path: str = _JOURNAL) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(path)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one datagram; a journal that is full or gone must not hold up the mount."""
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": _PRIORITY.get(record.levelno, 6),
            "SYSLOG_IDENTIFIER": _IDENTIFIER,
            "LOGGER": record.name,
        }
        datagram = b"".join(_journal_field(name, str(value)) for name, value in fields.items())
        try:
            self._socket.send(datagram, socket.MSG_DONTWAIT)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _journal_field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def level_name() -> str:
    """Return the name, as in LEVELS, of what is logged now."""
    now = logging.getLogger("fuse_s3_worker").getEffectiveLevel()
    return min(LEVELS, key=lambda name: abs(LEVELS[name] - now))


def set_up(level: int, *, file: TextIO | None = None) -> Redaction:
    """Direct all logging to `file`, or else to the journal, or syslog, or nowhere.

    Returns:
        The redaction in force, to be told every secret as soon as it is known.
    """
    handler = _stream(file) if file else _system_log()
    redaction = Redaction()
    handler.addFilter(redaction)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries speak up only when something is wrong
    logging.getLogger("fuse_s3_worker").setLevel(level)
    logging.raiseExceptions = False  # a full disk under log_file= is no reason to print
    return redaction


def _stream(file: TextIO) -> logging.Handler:
    if isinstance(file, io.TextIOWrapper):
        file.reconfigure(line_buffering=True)
    handler = logging.StreamHandler(file)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s.%(msecs)03d %(levelname)s fuse-s3[%(process)d] %(message)s",
            "%Y-%m-%dT%H:%M:%S",
        )
    )
    return handler


def _system_log() -> logging.Handler:
    try:
        if Path(_JOURNAL).exists():
            return JournalHandler()
        handler = logging.handlers.SysLogHandler(_SYSLOG, logging.handlers.SysLogHandler.LOG_DAEMON)
        handler.ident = f"{_IDENTIFIER}: "
        handler.append_nul = False
    except OSError:
        return logging.NullHandler()
    return handler

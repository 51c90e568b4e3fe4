"""The table of options as text: for --help, for docs/options.md and for the manual page."""

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.config.parse import option_of

__all__ = ["help_text", "markdown_table"]


class _Row(NamedTuple):
    name: str
    values: str
    default: str
    text: str
    aliases: tuple[str, ...] = ()


# What the helper decides by itself, before a worker is there.
_HELPER_ROWS = (
    _Row("ro", "", "rw", "mount read-only", ("read-only",)),
    _Row("owner_only", "", "for everybody", "let nobody in but the owner of the files (uid=)",
         ("private",)),
    _Row("worker_user", "a user's name", "fuse-s3, or nobody", "who the worker runs as"),
    _Row("passwd_file", "an absolute path", "~/.passwd-s3fs, /etc/passwd-s3fs",
         "access key in the format of s3fs; read as root, must not be readable by others"),
    _Row("shared_credentials_file", "an absolute path", "~/.aws/credentials",
         "credentials file of the AWS CLI; read as root"),
    _Row("config_file", "an absolute path", "~/.aws/config",
         "configuration file of the AWS CLI; read as root"),
    _Row("sse_c_key_file", "an absolute path", "no such keys",
         "your own encryption keys (SSE-C), the first of them for new objects; read as root"),
    _Row("ca_bundle", "an absolute path", "the system's certificates",
         "PEM file of the certificates to trust", ("ca-bundle",)),
    _Row("log_file", "an absolute path", "the journal, or syslog",
         "append the log to this file", ("logfile",)),
    _Row("noexec, sync, dirsync, noatime, nosymfollow ...", "", "",
         "what mount(8) says of them; nosuid and nodev are always on"),
)  # fmt: skip


def _rows() -> Iterator[_Row]:
    for name, field in Settings.model_fields.items():
        option = option_of(name)
        aliases = tuple(alias.name for alias in option.aliases)
        yield _Row(name, option.values, option.shown_default, field.description or "", aliases)


def help_text() -> str:
    """Return the options for a terminal of 80 columns."""
    lines = []
    for title, rows in (("Options:", _rows()), ("Options of mount.s3 itself:", _HELPER_ROWS)):
        lines.append(title)
        for row in rows:
            default = f" [{row.default}]" if row.default else ""
            head = f"  {row.name}" + (f"=({row.values})" if row.values else "")
            lines.append(head)
            text = f"{row.text}{default}"
            lines += textwrap.wrap(text, 72, initial_indent=" " * 6, subsequent_indent=" " * 6)
        lines.append("")
    return "\n".join(lines)


def markdown_table() -> str:
    """Return the options as the tables of docs/options.md."""
    parts = []
    for rows in (_rows(), _HELPER_ROWS):
        lines = ["| option | values | default | meaning | also called |", "|---|---|---|---|---|"]
        for row in rows:
            names = ", ".join(f"`{alias}`" for alias in row.aliases)
            lines.append(f"| `{row.name}` | {row.values} | {row.default} | {row.text} | {names} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"

"""Multipart uploads: parts are files that nginx wrote, joined inside the kernel."""

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.server.objects import RefusedError

__all__ = ["Part", "Upload", "Uploads", "copy_range", "join"]


class Part(NamedTuple):
    """One part of an upload: its file, size and ETag."""

    file: Path
    size: int
    etag: str


class Upload(NamedTuple):
    """A multipart upload under way."""

    key: str
    directory: Path
    parts: dict[int, Part]


class Uploads:
    """The multipart uploads under way."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._uploads: dict[str, Upload] = {}

    def begin(self, key: str) -> str:
        """Begin an upload; return its id."""
        upload_id = secrets.token_hex(16)
        directory = self._directory / upload_id
        directory.mkdir(parents=True)
        self._uploads[upload_id] = Upload(key, directory, {})
        return upload_id

    def find(self, key: str, upload_id: str) -> Upload:
        """Return an upload."""
        upload = self._uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise RefusedError(404, "NoSuchUpload", "The specified upload does not exist.")
        return upload

    def add(self, upload: Upload, number: int, file: Path | None) -> Part:
        """Make `file` a part, by renaming it."""
        path = upload.directory / str(number)
        if file is None:
            path.touch()
        else:
            file.rename(path)
        size = path.stat().st_size
        part = Part(path, size, f'"{secrets.token_hex(8)}-{size:x}"')
        upload.parts[number] = part
        return part

    def chosen(self, upload: Upload, wanted: Sequence[tuple[int, str]]) -> list[Part]:
        """Return the parts that a completion names by number and ETag."""
        if sorted(wanted) != list(wanted) or not wanted:
            raise RefusedError(400, "InvalidPartOrder", "Parts must be in ascending order.")
        for number, etag in wanted:
            part = upload.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise RefusedError(400, "InvalidPart", f"There is no such part: {number}.")
        return [upload.parts[number] for number, _ in wanted]

    def end(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts."""
        upload = self.find(key, upload_id)
        del self._uploads[upload_id]
        for part in upload.parts.values():
            part.file.unlink(missing_ok=True)
        upload.directory.rmdir()


def join(parts: Iterable[Part], target: Path) -> None:
    """Write parts into one file, each given up as soon as it was copied."""
    with target.open("xb") as output:
        for part in parts:
            copy_range(part.file, output.fileno(), 0, part.size)
            part.file.unlink()


def copy_range(source: Path, output: int, start: int, end: int) -> None:
    """Append bytes [start, end) of `source` to the file `output`, inside the kernel."""
    with source.open("rb") as file:
        while start < end:
            copied = os.copy_file_range(file.fileno(), output, end - start, start)
            if not copied:
                raise OSError(f"{source} ends at {start}, not at {end}")
            start += copied

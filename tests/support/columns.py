"""Whole directories, as the cache has them."""

import math

from fuse_s3_worker.cache.columns import Columns
from fuse_s3_worker.cache.entries import Entry
from fuse_s3_worker.cache.metadata import Metadata

__all__ = ["columns", "whole"]


def columns(key: str, *entries: tuple[str, Entry], until: float = math.inf) -> Columns:
    """Return a directory with these entries."""
    made = Columns(key)
    made.hear(until)
    for name, entry in entries:
        made.append(name, None if entry.directory else entry.info, until)
    return made


def whole(metadata: Metadata, key: str) -> dict[str, Entry] | None:
    """Return all that is remembered of a directory, None when that is not all there is."""
    listed = metadata.listing(key)
    if listed is None:
        return None
    rows = listed.columns
    found = {rows.name(row).decode(): rows.entry(row) for row in range(len(rows))}
    for name, entry in metadata.changed(key).items():
        found.pop(name, None)
        if entry is not None:
            found[name] = entry
    return found

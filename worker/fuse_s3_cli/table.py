"""Numbers and tables for people."""

from collections.abc import Sequence

__all__ = ["columns", "duration", "seconds", "size"]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_KIB = 1024
_FEW = 10
_STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SHORT = ((1.0, "s", 1.0), (1e-3, "ms", 1e3), (0.0, "us", 1e6))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as lines whose columns stand below each other."""
    widths = [max(len(word) for word in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines)


def size(value: float) -> str:
    """Return bytes with a unit: `1.5 MiB`."""
    for unit in _UNITS:
        if value < _KIB or unit == _UNITS[-1]:
            break
        value /= _KIB
    return f"{value:.1f} {unit}" if value < _FEW and unit != "B" else f"{value:.0f} {unit}"


def duration(value: float) -> str:
    """Return a long time by its two largest units: `3 h 20 min`."""
    rest = int(max(value, 0))
    words: list[str] = []
    for length, unit in _STEPS:
        if rest >= length and len(words) < 2:  # noqa: PLR2004  two, as it says
            words.append(f"{rest // length} {unit}")
            rest %= length
    return " ".join(words) or "0 s"


def seconds(value: float) -> str:
    """Return a short time with a unit: `34 ms`."""
    for least, unit, factor in _SHORT:
        if value >= least:
            return f"{value * factor:.0f} {unit}"
    return "0 us"

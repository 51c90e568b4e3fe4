"""What was found out, and what to do about it."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from fuse_s3_cli.control import shown

__all__ = ["Finding", "Outcome", "lines"]


class Outcome(StrEnum):
    """How it is."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    FAILED = "failed"


class Finding(BaseModel):
    """One thing that was looked at.

    Attributes:
        name: what, in one word; the same in every release.
        text: how it is.
        advice: what to do about it; "" where nothing is to be done.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: Outcome
    text: str
    advice: str = ""

    @classmethod
    def ok(cls, name: str, text: str) -> "Finding":
        """It is as it should be."""
        return cls(name=name, outcome=Outcome.OK, text=text)

    @classmethod
    def skipped(cls, name: str, text: str) -> "Finding":
        """Nobody has looked."""
        return cls(name=name, outcome=Outcome.SKIPPED, text=text)

    @classmethod
    def warning(cls, name: str, text: str, advice: str) -> "Finding":
        """Mounts work, but not as well as they could."""
        return cls(name=name, outcome=Outcome.WARNING, text=text, advice=advice)

    @classmethod
    def failed(cls, name: str, text: str, advice: str) -> "Finding":
        """Something will not work."""
        return cls(name=name, outcome=Outcome.FAILED, text=text, advice=advice)


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return the findings for a terminal."""
    found = []
    for finding in findings:
        found.append(f"{finding.outcome:7}  {finding.name}: {shown(finding.text)}")
        if finding.advice:
            found.append(f"         -> {shown(finding.advice)}")
    return found

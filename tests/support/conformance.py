"""What programs rely on, as lists: each behaviour is a function that looks, and what it must see.

Each function gets an empty directory of a mount and returns what it observed, in plain values. The
same lists run on every engine, and where a local file system does the same, on one of those, too:
that is what keeps the lists themselves honest. They are in `filebehaviours`, `treebehaviours` and
`posixbehaviours`.
"""

import errno
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Behaviour", "errno_of", "expectations", "observe", "shell"]


class Behaviour(NamedTuple):
    """A behaviour: how to look, and what is to be seen.

    Attributes:
        look: makes what it needs in an empty directory, and returns what it observed.
        expected: what that must be.
        local: whether a local file system does the same.
    """

    look: Callable[[Path], object]
    expected: object
    local: bool = True

    @property
    def name(self) -> str:
        """What it is called: as the function is."""
        return self.look.__name__


def observe(root: Path, behaviours: Iterable[Behaviour]) -> dict[str, object]:
    """Look at all behaviours, each in a directory of its own below `root`."""
    seen: dict[str, object] = {}
    for behaviour in behaviours:
        place = root / behaviour.name
        place.mkdir()
        try:
            seen[behaviour.name] = behaviour.look(place)
        except Exception as error:  # noqa: BLE001  that, too, is an observation
            seen[behaviour.name] = f"{type(error).__name__}: {error}"
    return seen


def expectations(behaviours: Iterable[Behaviour]) -> Mapping[str, object]:
    """Return what is to be seen, by name."""
    return {behaviour.name: behaviour.expected for behaviour in behaviours}


def errno_of(call: Callable[..., object], *arguments: object) -> str:
    """Return the name of the errno that a call fails with; `ok` if it does not."""
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    if call is os.open:
        os.close(int(str(result)))
    return "ok"


def shell(script: str, place: Path, *words: object) -> str:
    """Run a script in a directory; return what it printed, and how it failed, if it did."""
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *map(str, words)],
        cwd=place, capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    return done.stdout + done.stderr + (f"status {done.returncode}" if done.returncode else "")

"""What every workload has at hand, and what it gives back."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bench import processes
from bench.contestants import Contestant, Kind, Setting
from bench.data import BIG, Data
from bench.memory import Reserve
from bench.mounts import Mounted, mounted
from bench.server.nginx import Server

__all__ = ["GIGABYTE", "Bench", "Deadline", "Lasts", "Meter", "Sample"]

GIGABYTE = 1e9
_LAST_LINES = 0.1  # seconds until nginx has logged what was answered


@dataclass
class Sample:
    """One measurement.

    Attributes:
        values: by the name of their column.
        requests: what was asked of the server.
        note: that it was not done in time, and how far it came.
        bound: whether it is not known how far it came, and its rate is less than what is shown.
    """

    values: dict[str, float]
    requests: dict[str, int] = field(default_factory=dict)
    note: str = ""
    bound: bool = False


class Deadline:
    """When somebody has had enough time: what was done by then is the result."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is over."""
        return self._until - time.monotonic()

    @property
    def over(self) -> bool:
        """Tell whether it is over."""
        return self.left <= 0


class Meter:
    """Measures what happens while it is entered.

    `own` are the contestant's processes; without them, this process is the contestant, whose
    memory says nothing.
    """

    def __init__(self, server: Server, own: frozenset[int] = frozenset()) -> None:
        self._server = server
        self._own = own
        self.seconds = 0.0

    def __enter__(self) -> "Meter":
        processes.reset_peak(self._own)
        self._server.requests.take()
        self._server_pids = self._server.pids
        self._before = self._now()
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        self._after = self._now()

    def _now(self) -> tuple[float, float, float]:
        return (
            processes.cpu_seconds(self._own or {os.getpid()}),
            processes.cpu_seconds(self._server_pids),
            processes.machine_cpu_seconds(),
        )

    def sample(self, size: float, unit: float = GIGABYTE, *, of: float | None = None) -> Sample:
        """Return what was measured, for `size` bytes or names, as rates and costs of `unit`.

        `of` is how many there are in all, where not all of it may have been done. Of nothing there
        is a bound: not all of it was done in this time.
        """
        time.sleep(_LAST_LINES)
        own, server, machine = (b - a for a, b in zip(self._before, self._after, strict=True))
        asked = self._server.requests.take()
        bound = bool(of and not size)
        units = (of if of and bound else max(size, 1.0)) / unit
        values = {
            "rate": units / self.seconds,
            "seconds": self.seconds,
            "cpu": own / units,
            "machine_cpu": machine / units,
            "server_cpu": server / units,
            "completing": asked.completing,
            "asked": asked.total,
            "fetched": asked.fetched / 1e6,
        }
        if self._own:
            values["peak"] = processes.peak_memory(self._own) / 1e6
        return Sample(values, asked.operations, self._note(size, of), bound)

    def _note(self, size: float, of: float | None) -> str:
        if of is None or size >= of:
            return ""
        part = f"; {size / of:.0%} of it" if size else ""
        return f"not within {self.seconds:.0f} s{part}"


class Lasts(NamedTuple):
    """How many seconds a measurement lasts without an end of its own, and with one at most."""

    seconds: float
    patience: float


class Bench:
    """The stage.

    Attributes:
        server: the server.
        data: what is in the bucket.
        content: what BIG has in it, and what is written.
        seconds: how long a measurement lasts that has no end of its own.
        patience: how long one may last that has.
        say: tells people.
    """

    def __init__(
        self, base: Path, server: Server, data: Data, lasts: Lasts, say: Callable[[str], None]
    ) -> None:
        self.server = server
        self.data = data
        self.content = data.content
        self.seconds, self.patience = lasts
        self.say = say
        self._base = base
        self._reserve = Reserve()

    def deadline(self) -> Deadline:
        """Begin to be patient."""
        return Deadline(self.patience)

    @property
    def big_path(self) -> str:
        """The path of BIG in a URL."""
        return self.object_path(BIG)

    def object_path(self, key: str) -> str:
        """Return the path of an object in a URL."""
        return f"/{self.server.bucket}/{key}"

    @contextmanager
    def mounted(self, contestant: Contestant, kind: Kind) -> Iterator[Mounted]:
        """Mount for as long as this lasts, cold."""
        place = self._base / contestant.name
        directory = self._base / f"{contestant.name}.mnt"
        setting = Setting(self.server.url, self.server.bucket, directory, place, self.server.ca)
        place.mkdir(mode=0o700)
        try:
            with mounted(contestant, setting, kind) as mount:
                yield mount
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def lent(self, memory: float) -> AbstractContextManager[None]:
        """Make `memory` contents of memory quick to have, for as long as this lasts."""
        return self._reserve.lent(int(memory * self.content.size))

    def close(self) -> None:
        """Give memory back."""
        self._reserve.close()

"""What a mount that nobody uses keeps in memory."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from bench import processes
from bench.bench import Bench, Sample
from bench.contestants import Contestant
from bench.data import BIG
from bench.workloads.base import Column, Outcome, Workload
from bench.workloads.sequential import read_through

__all__ = ["IDLE_MEMORY"]

_AFTER_MOUNTING, _AFTER_READING = 4.0, 12.0  # seconds


def _idle(bench: Bench, contestants: Sequence[Contestant], _: bool) -> Iterator[Outcome]:
    """Let all of them rest at the same time: they do not disturb one another then."""
    with contextlib.ExitStack() as stack:
        pids: dict[str, frozenset[int]] = {}
        files = []
        for contestant in contestants:
            try:
                mount = stack.enter_context(bench.mounted(contestant, "names"))
                pids[contestant.name] = mount.pids
                files.append(mount.directory / BIG)
            except Exception as error:  # noqa: BLE001  whatever it is, it is the result
                yield contestant.name, error
        time.sleep(_AFTER_MOUNTING)
        values = {name: _memory(own, "mounted") for name, own in pids.items()}
        for file in files:
            read_through(file)
        time.sleep(_AFTER_READING)
        for name, own in pids.items():
            yield name, Sample(values[name] | _memory(own, "read"))


def _memory(pids: frozenset[int], when: str) -> dict[str, float]:
    now = processes.memory(pids)
    return {f"rss_{when}": now.rss / 1e6, f"pss_{when}": now.pss / 1e6}


IDLE_MEMORY = Workload(
    name="idle_memory",
    title="megabytes in memory 4 s after mounting, and 12 s after reading the file of 1 GiB",
    kind="names",
    columns=(
        Column("pss_read", "PSS, read", ".0f"),
        Column("rss_read", "RSS, read", ".0f"),
        Column("pss_mounted", "PSS, mounted", ".0f"),
        Column("rss_mounted", "RSS, mounted", ".0f"),
    ),
    measure=_idle,
    rounds=1,
)

"""Whose CPU time and memory the benchmark counts, and how it ends what it started."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import crew, processes
from support.process import wait_until


@pytest.fixture
def busy() -> Iterator[int]:
    """A process that uses a processor and 64 MiB."""
    program = "x = bytearray(64 << 20)\nprint(flush=True)\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    yield child.pid
    child.kill()
    child.wait()
    child.stdout.close()


def test_cpu_time_is_that_of_the_process(busy: int) -> None:
    before, machine = processes.cpu_seconds([busy]), processes.machine_cpu_seconds()
    ours = processes.cpu_seconds([os.getpid()])
    wait_until(lambda: processes.cpu_seconds([busy]) > before + 0.2, "CPU time of the child")
    assert processes.machine_cpu_seconds() > machine + 0.1
    assert processes.cpu_seconds([os.getpid()]) == pytest.approx(time.process_time(), abs=0.1)
    assert processes.cpu_seconds([os.getpid()]) > ours


def test_cpu_time_of_ended_children_counts_what_they_waited_for() -> None:
    before = processes.ended_cpu_seconds()
    spin = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.3: pass'"
    subprocess.run(["sh", "-c", f"{spin}; true"], check=True)
    assert processes.ended_cpu_seconds() > before + 0.25


def test_memory_is_that_of_the_process(busy: int) -> None:
    found = processes.memory([busy])
    assert 64 << 20 < found.pss <= found.rss < 256 << 20
    assert processes.peak_memory([busy]) >= found.rss


def test_a_peak_that_was_reset_is_forgotten() -> None:
    large = bytearray(200 << 20)
    before = processes.peak_memory([os.getpid()])
    del large
    processes.reset_peak([os.getpid()])
    assert processes.peak_memory([os.getpid()]) < before - (150 << 20)


def test_descendants_are_found_below_children_too() -> None:
    script = "sleep 60 & echo $!; wait"
    child = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    grandchild = int(child.stdout.readline())
    try:
        assert {child.pid, grandchild} <= processes.descendants()
    finally:
        processes.end([grandchild, child.pid])
        child.wait()
        child.stdout.close()
    assert not {child.pid, grandchild} & processes.descendants()


def test_who_does_not_listen_is_killed() -> None:
    program = (
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint(flush=True)\ntime.sleep(99)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    child.stdout.close()
    processes.end([child.pid], patience=0.2)
    assert not Path(f"/proc/{child.pid}").exists()
    child.wait()


# -- several at once -------------------------------------------------------------------------------


def test_a_crew_works_at_once_and_each_tells_what_it_did() -> None:
    here, there = os.pipe()

    def wait() -> int:
        return len(os.read(here, 10))

    def wake() -> int:
        return os.write(there, b"awake")

    assert [done.amount for done in crew.work([wait, wake])] == [5, 5]
    os.close(here)
    os.close(there)


def test_the_failure_of_one_of_a_crew_is_told_and_nobody_is_left() -> None:
    def fail() -> int:
        raise EOFError("nothing at 17")

    before = processes.descendants()
    with pytest.raises(crew.CrewError, match="EOFError: nothing at 17"):
        crew.work([lambda: 1, fail])
    with pytest.raises(crew.CrewError, match="ended without a word"):
        crew.work([lambda: os._exit(1)])
    assert processes.descendants() == before

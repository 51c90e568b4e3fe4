"""Whose close(2) stores a file: with real processes and threads."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fuse_s3_worker.fs import opener as module
from fuse_s3_worker.fs.opener import Opener
from support.confined import DONE, lacking, outcome_of

NEEDS_PROC = module.needs_proc


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param(False, marks=pytest.mark.skipif(
            module.needs_proc(), reason="this kernel has no PIDFD_GET_INFO (Linux 6.13)"
        )),
        True,
    ],
    ids=["by descriptor", "by /proc"],
)  # fmt: skip
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is asked in one way or the other; the answers are the same."""
    monkeypatch.setattr(module, "needs_proc", lambda: request.param)


# A program with a child that has inherited everything; it tells the child's id, and waits.
_PARENT = """
import os, sys
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
os.kill(child, 9)
os.waitpid(child, 0)
"""

# The same with an exec of something else in the child.
_EXECS = _PARENT.replace(
    "    sys.stdin.read()\n    os._exit(0)\n", "    os.execlp('sleep', 'sleep', '600')\n"
)

# A child that is alone in the world: its parent has ended.
_ORPHAN = """
import os, sys
child = os.fork()
if not child:
    sys.stdin.read()
    os._exit(0)
print(child, flush=True)
os._exit(0)
"""


@contextmanager
def family(program: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a program that prints its child's id; end both."""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())


def test_the_opener_itself_does_not_leave_it_to_anybody() -> None:
    thread = threading.get_native_id()
    opener = Opener.of(thread)
    assert opener == (thread, os.getpid())
    assert not opener.leaves_to(thread)


def _in_a_thread(work: threading.Event, ids: list[int]) -> threading.Thread:
    started = threading.Event()

    def body() -> None:
        ids.append(threading.get_native_id())
        started.set()
        work.wait()

    thread = threading.Thread(target=body)
    thread.start()
    started.wait()
    return thread


def test_another_thread_of_the_same_program_is_the_program() -> None:
    work, ids = threading.Event(), list[int]()
    thread = _in_a_thread(work, ids)
    try:
        assert not Opener.of(threading.get_native_id()).leaves_to(ids[0])
        opener = Opener.of(ids[0])
        assert opener.process == os.getpid()
        assert not opener.leaves_to(threading.get_native_id())
    finally:
        work.set()
        thread.join()
    # the thread that opened the file has ended, the program goes on and closes it
    assert not opener.leaves_to(threading.get_native_id())


@pytest.mark.parametrize("program", [_PARENT, _EXECS])
def test_a_child_that_inherited_the_file_leaves_it_to_the_opener(program: str) -> None:
    with family(program) as (parent, child):
        opener = Opener.of(parent.pid)
        assert opener.process == parent.pid
        assert opener.leaves_to(child)
        assert not opener.leaves_to(parent.pid)


def test_a_child_whose_parent_has_ended_is_the_last_to_close() -> None:
    with family(_ORPHAN) as (parent, child):
        opener = Opener(parent.pid, parent.pid)
        parent.wait()
        assert not opener.leaves_to(child)


def test_a_stranger_that_got_the_descriptor_leaves_it_to_the_opener() -> None:
    opener = Opener.of(threading.get_native_id())
    with family(_PARENT) as (parent, child):
        assert opener.leaves_to(parent.pid)
        assert opener.leaves_to(child)


def test_who_cannot_be_known_is_not_waited_for() -> None:
    """FUSE tells 0 for a process of another PID namespace; and one may have ended by now."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    mine = Opener.of(threading.get_native_id())
    assert not mine.leaves_to(0)
    assert not mine.leaves_to(ended.pid)
    assert Opener.of(0).process == 0
    assert not Opener.of(0).leaves_to(os.getpid())
    assert not Opener.of(ended.pid).leaves_to(os.getpid())


def test_an_older_kernel_is_noticed() -> None:
    """And one that knows the descriptor, and not what can be asked of it."""
    for call in ("pidfd_open", "ioctl"):

        def look() -> None:
            assert NEEDS_PROC.__wrapped__()
            assert module._by_proc(os.getpid()) == os.getpid()

        assert outcome_of(lacking(call, errno.ENOTTY), look) == DONE


def test_a_number_that_no_thread_can_have() -> None:
    assert Opener.of(2**32 - 1).process == 0
    assert not Opener.of(2**32 - 1).leaves_to(2**31)

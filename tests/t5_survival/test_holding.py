"""What a worker leaves behind, under which name, and who may take it over."""

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import pack

import pytest

from fuse_s3_shared import handoff
from fuse_s3_shared.fdpass import receive_packet
from fuse_s3_shared.limits import STORED_MAX
from fuse_s3_worker.conversation import Order
from fuse_s3_worker.fs.recording import HandleRecord
from fuse_s3_worker.survival import holding, records
from fuse_s3_worker.survival.holding import SecondWorkerError, failures, inherit, order_of
from fuse_s3_worker.survival.recorder import StateRecorder
from fuse_s3_worker.survival.records import DamagedError, Log
from fuse_s3_worker.survival.state import Kind, Mounting, Start, State, read_state
from fuse_s3_worker.survival.supervisor import Supervisor
from support.isolation import in_child
from support.succession import ORDER

MOUNTING = Mounting(7, 8, 1_600_000_000_000_000_000, 45, 1 << 39)


@pytest.fixture
def stored() -> Iterator[dict[str, int]]:
    """What a successor finds of a worker that has died."""
    read_end, write_end = os.pipe()
    keeper, worker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if not pid:
        files = {"log_file": (handoff.File("log_file", "/log"), os.memfd_create("log"))}
        order = Order(ORDER, files)
        recorder = holding.begin(order)
        recorder.settled(MOUNTING)
        holding.store(Supervisor({}, worker), os.memfd_create("device"), order, recorder)
        os.write(write_end, b"stored")
        os._exit(0)
    os.waitpid(pid, 0)
    worker.close()
    given = {}
    while (received := receive_packet(keeper, 1000))[1] is not None:
        words = dict(line.split("=", 1) for line in received[0].decode().split("\n"))
        given[words["FDNAME"]] = received[1]
    keeper.close()
    yield given
    for fd in given.values():
        os.close(fd)
    os.close(read_end)
    os.close(write_end)


def test_what_is_stored(stored: Mapping[str, int]) -> None:
    assert stored.keys() == {"fuse", "state-a", "state-b", "file.log_file"}
    links = {name: str(Path(f"/proc/self/fd/{fd}").readlink()) for name, fd in stored.items()}
    assert links["fuse"] == "/memfd:device (deleted)"
    assert links["file.log_file"] == "/memfd:log (deleted)"


def test_all_that_a_helper_can_hand_over_fits() -> None:
    from fuse_s3_helper.files import FILE_OPTIONS  # noqa: PLC0415  only here

    assert len(set(FILE_OPTIONS.values())) + len({"environment"}) + 3 <= STORED_MAX


def test_a_successor_finds_all_of_it(stored: Mapping[str, int]) -> None:
    def succeed() -> tuple[object, ...]:
        state, _ = inherit(stored)
        order = order_of(state, stored)
        return order.mount, order.files, state.mounting

    mount, files, mounting = in_child(succeed)
    assert mount == ORDER
    assert files == {"log_file": (handoff.File("log_file", "/log"), stored["file.log_file"])}
    assert mounting == MOUNTING


# -- a second worker -------------------------------------------------------------------------------


def test_a_second_worker_is_refused_while_the_first_one_lives(stored: Mapping[str, int]) -> None:
    ready_read, ready_write = os.pipe()
    end_read, end_write = os.pipe()
    pid = os.fork()
    if not pid:
        held = inherit(stored)  # the lock ends with it
        os.write(ready_write, b"1")
        os.read(end_read, 1)
        os._exit(held is None)
    os.read(ready_read, 1)
    in_child(lambda: _refused(stored))
    os.write(end_write, b"1")
    os.waitpid(pid, 0)
    assert in_child(lambda: inherit(stored)[0].order) == ORDER
    for fd in (ready_read, ready_write, end_read, end_write):
        os.close(fd)


def _refused(stored: Mapping[str, int]) -> None:
    with pytest.raises(SecondWorkerError, match="another worker serves this mount"):
        inherit(stored)


def test_a_forked_child_does_not_end_the_lock(stored: Mapping[str, int]) -> None:
    """Such as the one that starts programs for keys: it closes copies of all descriptors."""

    def lock_and_fork() -> object:
        held = inherit(stored)
        pid = os.fork()
        if not pid:
            os.closerange(3, 200)
            os._exit(0)
        os.waitpid(pid, 0)
        in_child(lambda: _refused(stored))
        return held[0].order

    assert in_child(lock_and_fork) == ORDER


# -- damage ----------------------------------------------------------------------------------------


def damage(stored: Mapping[str, int]) -> str:
    """Return what a successor says of the state."""

    def succeed() -> str:
        with pytest.raises(DamagedError) as caught:
            order_of(inherit(stored)[0], stored)
        return str(caught.value)

    return in_child(succeed)


def test_no_state(stored: dict[str, int]) -> None:
    assert damage({"fuse": stored["fuse"]}) == "there is none"


def test_half_a_state(stored: dict[str, int]) -> None:
    assert damage({"fuse": stored["fuse"], "state-a": stored["state-a"]}) == "there is none"


def test_a_state_that_was_never_complete(stored: dict[str, int]) -> None:
    os.pwrite(stored["state-a"], bytes(8), 32)
    assert damage(stored) == "no state was ever complete"


def test_a_state_of_another_version(
    stored: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "VERSION", 77)
    assert damage(stored) == "a state of version 1, this worker has 77"


def test_a_state_that_was_cut_short(stored: dict[str, int]) -> None:
    os.ftruncate(stored["state-a"], 4096 + 20)
    assert damage(stored).startswith("record of kind 1 at 4096 of ")


def test_something_else_in_its_place(stored: dict[str, int]) -> None:
    other = os.memfd_create("other")
    os.write(other, b"x" * 10_000)
    assert damage(stored | {"state-a": other}) == "not a state of ours"
    os.close(other)


def test_a_file_that_is_missing(stored: dict[str, int]) -> None:
    del stored["file.log_file"]
    assert damage(stored) == "'file.log_file' is missing"


SENSELESS = {
    "an unknown kind": (99, b"", "a record of the unknown kind 99"),
    "an order that is none": (Kind.ORDER, b"2\0", "a record of kind 1 of a wrong shape: "),
    "half a node": (Kind.NODE, b"1234", "a record of kind 16 of a wrong shape: "),
    "a node whose name is no text": (
        Kind.NODE, pack("<QQB", 7, 1, 0) + b"\xff", "a record of kind 16 of a wrong shape: ",
    ),
    "half a handle": (Kind.OPENED, pack("<QQ", 7, 1), "a record of kind 18 of a wrong shape: "),
    "half a version": (Kind.READS, pack("<Qq", 7, 1), "a record of kind 22 of a wrong shape: "),
    "no number": (Kind.RELEASED, b"", "a record of kind 19 of a wrong shape: "),
    "an upload without an id": (Kind.MULTIPART, b"key", "a record of kind 25 of a wrong shape: "),
    "too much of a start": (Kind.NEXT, bytes(17), "a record of kind 7 of a wrong shape: "),
}  # fmt: skip


@pytest.mark.parametrize("name", SENSELESS)
def test_a_record_that_makes_no_sense(stored: dict[str, int], name: str) -> None:
    """It checks, so this is how it was written: by another program, or a fault of ours."""
    kind, body, complaint = SENSELESS[name]
    Log(stored["state-a"]).append(kind, body)
    assert damage(stored).startswith(complaint)


def test_a_state_without_a_mount() -> None:
    log = Log.create("x")
    log.begin()
    with pytest.raises(DamagedError, match="a state without a mount"):
        read_state(log)
    os.close(log.fd)


# -- how often workers failed ----------------------------------------------------------------------


def left(starts: list[tuple[float, bool]], *, handed_over: bool = False) -> State:
    log, other = Log.create("a"), Log.create("b")
    log.begin()
    recorder = StateRecorder(log, other)
    recorder.keep(Kind.ORDER, handoff.encode(ORDER))
    recorder.settled(MOUNTING)
    for at, orderly in starts:
        if orderly:
            recorder.handed_over()
        recorder.start(at)
    if handed_over:
        recorder.handed_over()
    state = read_state(log)
    assert state.starts == [Start(*start) for start in starts]
    os.close(log.fd)
    os.close(other.fd)
    return state


CASES: dict[str, tuple[list[tuple[float, bool]], bool, int]] = {
    "the first one died": ([(0, False)], False, 1),
    "the first one died long ago": ([(0, False), (900, False)], False, 1),
    "four died": ([(0, False), (990, False), (991, False), (992, False)], False, 4),
    "some were restarted on purpose": (
        [(0, False), (990, True), (991, False), (992, True)], False, 2,
    ),
    "this one was restarted on purpose": ([(0, False), (990, False)], True, 1),
    "all were": ([(0, False), (990, True), (991, True)], True, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_failures_of_the_last_minute(name: str) -> None:
    starts, handed_over, expected = CASES[name]
    assert failures(left(starts, handed_over=handed_over), 1000.0) == expected


def test_handles_count_once_for_each_number() -> None:
    """A new generation is written while programs open files: some are recorded twice."""
    log, other = Log.create("a"), Log.create("b")
    log.begin()
    recorder = StateRecorder(log, other)
    recorder.keep(Kind.ORDER, handoff.encode(ORDER))
    recorder.settled(MOUNTING)
    for number in (1, 2, 1):
        recorder.opened(HandleRecord(number, 5, 0, 1), None)
    recorder.released(1)
    recorder.released(9)  # of which nothing is known
    assert [record.number for record in read_state(log).remains.handles] == [2]
    recorder.released(2)
    assert not read_state(log).remains.handles
    os.close(log.fd)
    os.close(other.fd)

"""The seccomp filter: golden instructions, every number and argument, and the kernel's own opinion.

An interpreter of the filter's language asks the filters of both machines. This one's is loaded as
well, and asked by real calls.
"""

import ctypes
import errno
import operator
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker.sandbox import seccomp
from fuse_s3_worker.sandbox.allowed import (
    ALL_BITS,
    CALLS,
    CHECKS,
    KILLED,
    NOT_THERE,
    OWN_PROCESS,
    Calls,
    Check,
    names,
)
from fuse_s3_worker.sandbox.bpf import Instruction, encode, filter_for
from fuse_s3_worker.sandbox.process import STEPS
from fuse_s3_worker.sandbox.syscalls import ARCHITECTURES, Architecture
from support.confined import DONE, Outcome, outcome_of

PROCESS = 4711

ALLOW, KILL = 0x7FFF0000, 0x80000000  # linux/seccomp.h, SECCOMP_RET_


def fails(number: int) -> int:
    return 0x00050000 | number


every_machine = pytest.mark.parametrize("machine", ARCHITECTURES.values(), ids=ARCHITECTURES)
here = ARCHITECTURES[os.uname().machine]

# -- the language ----------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    """Struct sock_filter of linux/filter.h: code, jump if true, jump if false, operand."""
    program = [Instruction(0x1234, 0x56, 0x78, 0x9ABCDEF0), Instruction(6, 0, 0, ALLOW)]
    assert encode(program).hex(" ") == "34 12 56 78 f0 de bc 9a 06 00 00 00 00 00 ff 7f"


def test_golden_filter() -> None:
    """A machine with four calls, by hand, against linux/bpf_common.h and linux/seccomp.h."""
    few = Architecture(0xC0DEC0DE, 0x40000000, {"read": 2, "clone3": 3, "tgkill": 9, "bpf": 10})
    assert filter_for(few, PROCESS) == [
        (0x20, 0, 0, 4),  # 0: load the machine
        (0x15, 1, 0, 0xC0DEC0DE),  # 1: this one: to 3
        (0x06, 0, 0, KILL),
        (0x20, 0, 0, 0),  # 3: load the number
        (0x35, 0, 1, 0x40000000),  # 4: not of the other ABI: to 6
        (0x06, 0, 0, KILL),
        (0x35, 5, 0, 4),  # 6: from 4 on: to 12
        (0x35, 1, 0, 2),  # 7: from 2 on: to 9
        (0x06, 0, 0, fails(errno.EPERM)),
        (0x35, 1, 0, 3),  # 9: from 3 on: to 11
        (0x06, 0, 0, ALLOW),  # read
        (0x06, 0, 0, fails(errno.ENOSYS)),  # clone3
        (0x35, 6, 0, 10),  # 12: from 10 on: to 19
        (0x35, 1, 0, 9),  # 13: from 9 on: to 15
        (0x06, 0, 0, fails(errno.EPERM)),
        (0x20, 0, 0, 16),  # 15: load the first argument of tgkill
        (0x15, 1, 0, PROCESS),  # 16: its own process: to 18
        (0x06, 0, 0, fails(errno.EPERM)),
        (0x06, 0, 0, ALLOW),
        (0x35, 1, 0, 11),  # 19: from 11 on: to 21
        (0x06, 0, 0, KILL),  # bpf
        (0x06, 0, 0, fails(errno.EPERM)),
    ]


def asked(
    program: Sequence[Instruction], audit: int, number: int, arguments: Sequence[int] = ()
) -> int:
    """Run a filter as Documentation/networking/filter.rst describes; return its answer."""
    data = {0: number, 4: audit}
    for at in range(6):
        value = arguments[at] if at < len(arguments) else 0
        data |= {16 + 8 * at: value & ALL_BITS, 20 + 8 * at: value >> 32 & ALL_BITS}
    register, at = 0, 0
    for _ in program:
        code, if_true, if_false, operand = program[at]
        if code == RETURN:
            return operand
        register = CHANGES[code](register, operand, data)
        jumps = JUMPS[code](register, operand) if code in JUMPS else None
        at += 1 + {None: 0, True: if_true, False: if_false}[jumps]
        at += operand if code == JUMP_ALWAYS else 0
    raise AssertionError("the filter has no end")


RETURN, JUMP_ALWAYS = 0x06, 0x05
JUMPS: dict[int, Callable[[int, int], bool]] = {0x15: operator.eq, 0x35: operator.ge}
CHANGES: dict[int, Callable[[int, int, dict[int, int]], int]] = {
    0x20: lambda _register, offset, data: data[offset],
    0x54: lambda register, mask, _data: register & mask,
    0x05: lambda register, _operand, _data: register,
} | dict.fromkeys(JUMPS, lambda register, _operand, _data: register)


# -- the table -------------------------------------------------------------------------------------


def expected(machine: Architecture, *, start: bool = False) -> dict[int, int]:
    """Number to answer, of calls that the table names, whatever their arguments."""
    answers = dict.fromkeys(names(start=start), ALLOW)
    answers |= dict.fromkeys(NOT_THERE, fails(errno.ENOSYS))
    answers |= {name: KILL for calls in KILLED for name in calls.words.split()}
    return {machine.numbers[name]: a for name, a in answers.items() if name in machine.numbers}


def right(call: str) -> list[int]:
    """Arguments with which a call passes."""
    arguments = [0] * 6
    for check in CHECKS:
        if check.call == call:
            value = check.values[0]
            arguments[check.argument] |= PROCESS if value == OWN_PROCESS else value
    return arguments


@every_machine
@pytest.mark.parametrize("start", [False, True])
def test_every_number(machine: Architecture, start: bool) -> None:
    program = filter_for(machine, PROCESS, start=start)
    table = expected(machine, start=start)
    called = {number: name for name, number in machine.numbers.items()}
    for number in [*range(1024), 0x3FFFFFFF, 0x40000000 - 1]:
        arguments = right(called.get(number, ""))
        answer = asked(program, machine.audit, number, arguments)
        assert answer == table.get(number, fails(errno.EPERM)), called.get(number, number)


@every_machine
def test_another_machines_calls_end_the_process(machine: Architecture) -> None:
    """The kernel runs programs of several machines, and numbers mean other things there."""
    program = filter_for(machine, PROCESS)
    i386 = 0x40000003
    for audit in {i386, *(other.audit for other in ARCHITECTURES.values())} - {machine.audit}:
        assert asked(program, audit, machine.numbers["read"]) == KILL


def test_the_second_abi_of_x86_ends_the_process() -> None:
    machine = ARCHITECTURES["x86_64"]
    program = filter_for(machine, PROCESS)
    for number in (0x40000000, 0x40000000 | machine.numbers["read"], 0xFFFFFFFF):
        assert asked(program, machine.audit, number) == KILL


@every_machine
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: f"{c.call}-{c.argument}")
@given(value=st.integers(0, 2**64 - 1), near=st.integers(-2, 2), data=st.data())
def test_every_argument(
    machine: Architecture, check: Check, value: int, near: int, data: st.DataObject
) -> None:
    """Any value, and those near the ones that are right; one argument at a time."""
    good = [PROCESS if one == OWN_PROCESS else one for one in check.values]
    value = data.draw(st.sampled_from([value, (data.draw(st.sampled_from(good)) + near) % 2**64]))
    arguments = right(check.call)
    arguments[check.argument] = value
    answer = asked(
        filter_for(machine, PROCESS), machine.audit, machine.numbers[check.call], arguments
    )
    assert answer == (ALLOW if value & check.mask in good else fails(check.errno))


def test_the_table_is_one() -> None:
    """No call in two places, none unknown, none checked that is not allowed; a reason for each."""
    words = [w for calls in (*CALLS, *KILLED) for w in calls.words.split()] + list(NOT_THERE)
    assert len(words) == len(set(words))
    assert set(words) == set(ARCHITECTURES["x86_64"].numbers)
    assert {check.call for check in CHECKS} <= set(names(start=False))
    assert all(calls.why for calls in (*CALLS, *KILLED))
    assert all(check.why for check in CHECKS)


def header_numbers(path: str) -> dict[str, int]:
    """Return what a header of the kernel defines, the names of its 64-bit variants included."""
    text = Path(path).read_text()
    found = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    return {name: int(number) for name, number in found.items()}


def test_numbers_of_x86_64() -> None:
    (path,) = Path("/usr/include").glob("*/asm/unistd_64.h")
    theirs = header_numbers(str(path))
    ours = ARCHITECTURES["x86_64"].numbers
    assert ours == {name: theirs[name] for name in ours}


def test_numbers_of_arm64() -> None:
    """Which has the numbers of every new machine, and renameat(2)."""
    theirs = header_numbers("/usr/include/asm-generic/unistd.h")
    theirs |= {"newfstatat": theirs["fstatat"]}
    ours = ARCHITECTURES["aarch64"].numbers
    assert ours == {name: theirs[name] for name in ours}
    missing = set(ARCHITECTURES["x86_64"].numbers) - set(ours)
    assert not missing & theirs.keys()


# -- the kernel ------------------------------------------------------------------------------------


def filtered() -> None:
    """Load the filter, and nothing else."""
    STEPS["no_new_privs"]()
    why = seccomp.apply()
    assert why == "", why


def call(name: str, *arguments: int) -> Callable[[], None]:
    """Return a real call, which must not be one that does anything."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = here.numbers[name]

    def act() -> None:
        if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
            raise OSError(ctypes.get_errno(), name)

    return act


def test_the_kernel_takes_the_filter_and_answers_as_it_says() -> None:
    for calls in KILLED:
        for name in calls.words.split():
            if name in here.numbers:
                assert outcome_of(filtered, call(name)) == Outcome(signal=signal.SIGSYS), name
    for name in NOT_THERE:
        assert outcome_of(filtered, call(name)) == Outcome(errno.ENOSYS), name
    assert outcome_of(filtered, call("getpid")) == DONE


def test_what_is_not_in_the_table_is_not_permitted() -> None:
    acts: list[Callable[[], object]] = [
        lambda: os.kill(os.getpid(), 0),
        lambda: os.getpgid(0),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
        lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    ]
    for act in acts:
        assert outcome_of(act) == DONE
        assert outcome_of(filtered, act) == Outcome(errno.EPERM)


def test_threads_that_run_already_are_filtered_too() -> None:
    """Libraries start threads when they are imported; none may keep what the others gave up."""

    def attack() -> None:
        ready, go, answers = threading.Event(), threading.Event(), list[int]()

        def body() -> None:
            ready.set()
            go.wait()
            try:
                os.kill(os.getpid(), 0)
            except OSError as error:
                answers.append(error.errno or 0)

        thread = threading.Thread(target=body)
        thread.start()
        ready.wait()
        filtered()
        go.set()
        thread.join()
        raise OSError(answers[0], "in the thread")

    assert outcome_of(attack) == Outcome(errno.EPERM)


def test_a_thread_with_a_filter_of_its_own_is_reported() -> None:
    """It cannot take ours: the worker would be half confined, and must not take it for whole."""

    def attempt() -> None:
        ready, done = threading.Event(), threading.Event()

        def body() -> None:
            STEPS["no_new_privs"]()
            libc = ctypes.CDLL(None, use_errno=True)
            code = encode([Instruction(6, 0, 0, ALLOW)])
            buffer = ctypes.create_string_buffer(code, len(code))
            header = (ctypes.c_uint64 * 2)(1, ctypes.addressof(buffer))
            assert libc.prctl(22, 2, header, 0, 0) == 0  # PR_SET_SECCOMP, for this thread alone
            ready.set()
            done.wait()

        thread = threading.Thread(target=body)
        thread.start()
        ready.wait()
        STEPS["no_new_privs"]()
        why = seccomp.apply()
        done.set()
        thread.join()
        assert "does not take the filter" in why

    assert outcome_of(attempt) == DONE


def test_an_unknown_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = os.uname_result(("Linux", "node", "6.1", "#1", "riscv64"))
    monkeypatch.setattr(os, "uname", lambda: unknown)
    assert seccomp.apply() == "no list of system calls for riscv64"


def test_without_no_new_privs_the_kernel_refuses() -> None:
    """Or a filter could turn a setuid program into something else."""

    def attempt() -> None:
        if os.geteuid() == 0:
            os.setresuid(1, 1, 1)
        assert seccomp.apply() == "no_new_privs is not set"

    assert outcome_of(attempt) == DONE


def test_sockets_of_the_three_families_still_work() -> None:
    def use() -> None:
        for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                socket.socket(family, kind).close()
        left, right = socket.socketpair()
        left.send(b"x")
        assert right.recv(1) == b"x"

    assert outcome_of(filtered, use) == DONE


# -- the start -------------------------------------------------------------------------------------


def test_an_interpreter_starts_under_the_units_list() -> None:
    """With its packages, which are many, and then confines itself as usual."""
    program = (
        "import fuse_s3_worker.main, os\n"
        "from fuse_s3_worker import sandbox\n"
        "level = sandbox.enter(sandbox.confine(), 'strict', sandbox.Needs())\n"
        "assert not level.missing\n"
    )

    def start() -> None:
        STEPS["no_new_privs"]()
        seccomp.install(filter_for(here, 0, start=True))
        os.execv(sys.executable, [sys.executable, "-c", program])

    assert outcome_of(start) == DONE


@pytest.mark.parametrize("calls", [c for c in CALLS if c.start], ids=lambda c: c.why)
def test_nothing_of_the_start_is_left_over(calls: Calls) -> None:
    """Each is needed to get there, so that the unit's list is no longer than it must be."""
    assert not set(calls.words.split()) & set(names(start=False))

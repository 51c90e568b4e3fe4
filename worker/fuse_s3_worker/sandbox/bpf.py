"""A seccomp filter in the language of the kernel: classic BPF over the number and its arguments.

A filter is asked at each system call. Numbers are found by bisection, eight comparisons for a
hundred calls; kernels since 5.11 remember which numbers pass whatever their arguments, and for
those, READ and WRITE among them, ask no filter at all.
Sources: linux/seccomp.h, linux/bpf_common.h, linux/filter.h.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from fuse_s3_worker.sandbox.allowed import (
    ALL_BITS,
    CHECKS,
    KILLED,
    NOT_THERE,
    OWN_PROCESS,
    Check,
    names,
)
from fuse_s3_worker.sandbox.syscalls import Architecture

__all__ = ["Instruction", "encode", "filter_for"]

_LD_W_ABS, _RET_K, _ALU_AND_K, _JMP_JA = 0x20, 0x06, 0x54, 0x05
_JMP_JEQ_K, _JMP_JGE_K = 0x15, 0x35
_JUMP_MAX = 255

_RET_KILL_PROCESS, _RET_ERRNO, _RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_EPERM, _ENOSYS = 1, 38  # asm-generic/errno.h: the same wherever this runs

# struct seccomp_data: int nr, __u32 arch, __u64 instruction_pointer, __u64 args[6]
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    k: int


Code = tuple[Instruction, ...]


def _load(offset: int) -> Instruction:
    return Instruction(_LD_W_ABS, 0, 0, offset)


def _return(action: int) -> Code:
    return (Instruction(_RET_K, 0, 0, action),)


_KILL, _ALLOW = _return(_RET_KILL_PROCESS), _return(_RET_ALLOW)


def _fail(number: int) -> Code:
    return _return(_RET_ERRNO | number)


def filter_for(machine: Architecture, process: int, *, start: bool = False) -> list[Instruction]:
    """Return the filter of the worker with the process id `process`.

    With `start` it is one to start a worker under, as a service manager puts it in place: it
    allows more, and looks at no arguments.
    """
    answers = dict.fromkeys(names(start=start), _ALLOW)
    if not start:
        answers |= {check.call: _ALLOW for check in CHECKS}
        for check in reversed(CHECKS):
            answers[check.call] = _checked(check, process) + answers[check.call]
    answers |= {name: _fail(_ENOSYS) for name in NOT_THERE}
    answers |= {name: _KILL for calls in KILLED for name in calls.words.split()}
    numbered = {machine.numbers[n]: code for n, code in answers.items() if n in machine.numbers}
    head = [_load(_ARCH), Instruction(_JMP_JEQ_K, 1, 0, machine.audit), *_KILL, _load(_NUMBER)]
    if machine.foreign is not None:
        head += [Instruction(_JMP_JGE_K, 0, 1, machine.foreign), *_KILL]
    return head + list(_bisect(_intervals(numbered, _fail(_EPERM))))


def _checked(check: Check, process: int) -> Code:
    """Return code that goes on at its end when the argument is right, and else returns."""
    values = [process if value == OWN_PROCESS else value for value in check.values]
    look = [_load(_ARGUMENTS + 8 * check.argument)]  # the lower half: both machines are little
    if check.mask != ALL_BITS:
        look.append(Instruction(_ALU_AND_K, 0, 0, check.mask))
    last = len(values)
    equal = [Instruction(_JMP_JEQ_K, last - at, 0, value) for at, value in enumerate(values)]
    return (*look, *equal, *_fail(check.errno))


def _intervals(answers: Mapping[int, Code], default: Code) -> list[tuple[int, Code]]:
    """Return where each run of numbers with one answer begins, from 0 on."""
    found: list[tuple[int, Code]] = []
    edges = sorted({0, *answers, *(number + 1 for number in answers)})
    for number in edges:
        code = answers.get(number, default)
        if not found or found[-1][1] != code:
            found.append((number, code))
    return found


def _bisect(intervals: Sequence[tuple[int, Code]]) -> Code:
    """Return code that finds the interval of the number it has loaded; each way ends in it."""
    if len(intervals) == 1:
        return intervals[0][1]
    middle = len(intervals) // 2
    below, above = _bisect(intervals[:middle]), _bisect(intervals[middle:])
    first = intervals[middle][0]
    if len(below) <= _JUMP_MAX:
        return (Instruction(_JMP_JGE_K, len(below), 0, first), *below, *above)
    far = Instruction(_JMP_JA, 0, 0, len(below))
    return (Instruction(_JMP_JGE_K, 0, 1, first), far, *below, *above)


def encode(program: Iterable[Instruction]) -> bytes:
    """Return the program as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)

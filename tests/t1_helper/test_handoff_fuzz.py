"""Both ends of the handoff against a peer that says anything: no crash, no hang, nothing left open.

A case is a conversation as it should be, damaged in one place or in many. tests/fuzz/handoff.py
has cases that a fuzzer thinks of which sees what code they come to.
"""

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuse_s3_shared import handoff
from fuse_s3_shared.handoff import encode
from fuse_s3_shared.limits import PACKET_MAX
from support.conversations import BY_HELPER, BY_WORKER, ENDS, Packets, from_bytes, to_bytes
from support.isolation import open_descriptors

OTHERS = [packet for packet, _ in BY_WORKER + BY_HELPER] + [
    encode(handoff.Refuse(1, "no \x1b[2J such\nbucket")),
    b"",
    b"\0",
    b"999",
    b"101\0-1\x001\0w",
    b"4\0" + b"d" * PACKET_MAX,
]


Damage = Callable[[bytes, int, random.Random], Packets]

DAMAGES: list[Damage] = [
    lambda packet, fds, chance: [(packet[: chance.randrange(len(packet) + 1)], fds)],
    lambda packet, fds, chance: [(flipped(packet, chance), fds)],
    lambda packet, fds, chance: [(packet + chance.randbytes(chance.choice((1, 9, 5000))), fds)],
    lambda packet, _, chance: [(packet, chance.randrange(4))],
    lambda _, fds, chance: [(chance.choice(OTHERS), fds)],
    lambda packet, fds, _: [(packet, fds)] * 2,
    lambda packet, fds, chance: [(fields(packet, chance), fds)],
    lambda *_: [],
]


def damaged(packets: Packets, chance: random.Random) -> Packets:
    """Return the conversation with something wrong in it, or two things, or ten."""
    packets = list(packets)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 10))):
        if packets:
            at = chance.randrange(len(packets))
            packets[at : at + 1] = chance.choice(DAMAGES)(*packets[at], chance)
    return packets


def flipped(packet: bytes, chance: random.Random) -> bytes:
    if not packet:
        return b"?"
    at = chance.randrange(len(packet))
    return packet[:at] + bytes([packet[at] ^ 1 << chance.randrange(8)]) + packet[at + 1 :]


def fields(packet: bytes, chance: random.Random) -> bytes:
    """Change a field as a whole."""
    words = packet.split(b"\0")
    words[chance.randrange(len(words))] = chance.choice(
        (b"", b"0", b"-0", b"007", b"4294967296", b"9" * 4300, "٣".encode(), b"\xff" * 9000)
    )
    return b"\0".join(words)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """A loop for all cases: making one takes ten times as long as a case."""
    with asyncio.Runner() as made:
        made.get_loop()
        yield made


@pytest.mark.parametrize("end", ENDS)
def test_what_is_as_it_should_be_is_taken(end: str, runner: asyncio.Runner) -> None:
    """Else the fuzzers would only try the first step."""
    packets, tell = ENDS[end]
    assert tell(packets, runner)
    assert not tell(packets[:-1], runner)


@pytest.mark.parametrize("end", ENDS)
def test_what_a_fuzzer_begins_with_is_a_conversation(end: str, runner: asyncio.Runner) -> None:
    found, packets = from_bytes(to_bytes(end, ENDS[end][0]))
    assert (found, packets) == (end, ENDS[end][0])
    assert ENDS[found][1](packets, runner)


@given(data=st.binary())
def test_any_bytes_are_one(data: bytes) -> None:
    end, packets = from_bytes(data)
    assert end in ENDS
    assert sum(len(packet) for packet, _ in packets) <= len(data)


@pytest.mark.parametrize("end", ENDS)
@settings(deadline=None, max_examples=1000)
@given(chance=st.randoms(use_true_random=False))
def test_anything(end: str, runner: asyncio.Runner, chance: random.Random) -> None:
    packets, tell = ENDS[end]
    before = open_descriptors()
    tell(damaged(packets, chance), runner)
    assert open_descriptors() == before


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("end", ENDS)
def test_half_a_million_of_anything(end: str, runner: asyncio.Runner) -> None:
    packets, tell = ENDS[end]
    before = open_descriptors()
    for seed in range(500_000):
        tell(damaged(packets, random.Random(seed)), runner)
        if not seed % 1000:
            assert open_descriptors() == before, seed
    assert open_descriptors() == before

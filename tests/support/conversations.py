"""Conversations of the handoff: as they should be, and a peer for each end that says anything.

Everything is sent at once and the peer is gone then, so that whoever waits for more is told.
"""

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from fuse_s3_helper.errors import MountError
from fuse_s3_helper.worker import Worker
from fuse_s3_shared import handoff
from fuse_s3_shared.handoff import encode
from fuse_s3_shared.limits import PROTOCOL_VERSION
from fuse_s3_worker.conversation import Helper, HelperGoneError

__all__ = ["BY_HELPER", "BY_WORKER", "ENDS", "Packets", "from_bytes", "to_bytes"]

Packets = list[tuple[bytes, int]]
"""Packets, each with how many descriptors it brings."""

BY_WORKER: Packets = [
    (encode(handoff.Hello(1, PROTOCOL_VERSION, "worker")), 0),
    (encode(handoff.Ready(7, 8)), 0),
    (encode(handoff.Serving()), 0),
]
BY_HELPER: Packets = [
    (encode(handoff.File("passwd_file", "/etc/passwd-s3fs")), 1),
    (encode(handoff.File("environment", "")), 1),
    (encode(handoff.Mount(PROTOCOL_VERSION, "b", "a,b=c", 0, 0, *(4 * [False]))), 0),
    (encode(handoff.Serve()), 1),
    (encode(handoff.Mounted("/mnt")), 0),
]


def send(sock: socket.socket, packets: Packets) -> None:
    for packet, count in packets:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [2] * count))]
        with contextlib.suppress(OSError):  # an answer to what came before: it is gone by now
            sock.sendmsg([packet], rights if count else [], socket.MSG_DONTWAIT)


def tell_helper(packets: Packets, _: asyncio.Runner) -> bool:
    """Let the helper talk to a worker that says this; tell whether it got to the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = Worker(ours)
    send(theirs, packets)
    theirs.close()
    served = False
    with contextlib.suppress(MountError):
        worker.greet()
        worker.expect(handoff.Ready)
        worker.expect(handoff.Serving)
        served = True
    worker.stop()
    return served


def tell_worker(packets: Packets, runner: asyncio.Runner) -> bool:
    """Let a worker talk to a helper that says this; tell whether it got to the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = Helper(ours)
    send(theirs, packets)
    theirs.shutdown(socket.SHUT_WR)
    mounted = False
    with contextlib.suppress(HelperGoneError), contextlib.closing(helper):
        order = helper.order()
        for _, fd in order.files.values():
            os.close(fd)
        runner.run(_go_on(helper))
        mounted = True
    theirs.close()
    return mounted


async def _go_on(helper: Helper) -> None:
    os.close(await helper.device())
    await helper.mounted()


ENDS: dict[str, tuple[Packets, Callable[[Packets, asyncio.Runner], bool]]] = {
    "helper": (BY_WORKER, tell_helper),
    "worker": (BY_HELPER, tell_worker),
}


# -- for a fuzzer that knows nothing but bytes -----------------------------------------------------

_PACKETS_MAX = 16  # more than any conversation has, and less than a socket holds
_RIGHTS_MAX = 3


def to_bytes(end: str, packets: Packets) -> bytes:
    """Return a conversation with an end: its number, then the packets.

    Each is a byte for its descriptors, two for its size, least significant first, and itself.
    """
    parts = [bytes([list(ENDS).index(end)])]
    parts += [bytes([fds]) + len(packet).to_bytes(2, "little") + packet for packet, fds in packets]
    return b"".join(parts)


def from_bytes(data: bytes) -> tuple[str, Packets]:
    """Return the end and the packets that any bytes are taken for."""
    end = list(ENDS)[data[0] % len(ENDS)] if data else "helper"
    return end, list(_packets(data[1:]))[:_PACKETS_MAX]


def _packets(data: bytes) -> Iterator[tuple[bytes, int]]:
    while len(data) > 2:
        size = int.from_bytes(data[1:3], "little")
        yield data[3 : 3 + size], data[0] % (_RIGHTS_MAX + 1)
        data = data[3 + size :]

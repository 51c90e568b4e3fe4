"""One packet, at most one descriptor, over a SOCK_SEQPACKET Unix socket.

A packet is never joined with its neighbour and never cut in silence: the receiver asks for one
byte more than is allowed and rejects what fills it. Control data is sized for exactly one
descriptor (`CMSG_LEN`, because `CMSG_SPACE` leaves room for a second one), and a sender that
attached more is refused after closing what did arrive. `recvmsg` is called directly since
`socket.recv_fds` drops the flags it is given: descriptors would survive an exec.
"""

import array
import os
import socket

_ONE_FD = socket.CMSG_LEN(array.array("i").itemsize)


class PacketError(Exception):
    """A peer broke the rules above; the message says which."""


def send_packet(sock: socket.socket, packet: bytes, fd: int | None = None) -> None:
    """Send `packet` whole, with a duplicate of `fd` when one is given.

    Raises:
        OSError: the peer is gone, or the socket's timeout passed.
    """
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    # MSG_NOSIGNAL: a peer that went away is an error here, not a SIGPIPE.
    sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)


def receive_packet(sock: socket.socket, limit: int) -> tuple[bytes, int | None]:
    """Receive one packet of at most `limit` bytes and the descriptor that came with it.

    The descriptor is close-on-exec and now the caller's to close. An empty packet means that
    the peer closed its end; no message of ours is empty.

    Raises:
        PacketError: the packet is too large, or brought more than one descriptor.
        OSError: the socket failed, or its timeout passed.
    """
    packet, ancillary, flags, _ = sock.recvmsg(limit + 1, _ONE_FD, socket.MSG_CMSG_CLOEXEC)
    fds = _descriptors(ancillary)
    if flags & socket.MSG_CTRUNC:
        _close(fds)
        raise PacketError("more than one descriptor in a packet")
    if flags & socket.MSG_TRUNC or len(packet) > limit:
        _close(fds)
        raise PacketError(f"a packet of more than {limit} bytes")
    return packet, fds[0] if fds else None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

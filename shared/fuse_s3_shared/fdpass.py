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
import struct

_ONE_FD = socket.CMSG_LEN(array.array("i").itemsize)
_UCRED = struct.Struct("=iII")  # linux/socket.h, struct ucred: pid, uid, gid


class PacketError(Exception):
    """A peer broke the rules above; the message says which."""


def peer_uid(sock: socket.socket) -> int:
    """Return who made the other end of a connection: the kernel's word, not the peer's."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return int(_UCRED.unpack(credentials)[1])


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
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    problem = f"a packet of more than {limit} bytes" if len(packet) > limit else ""
    if flags & socket.MSG_CTRUNC:
        problem = "more than one descriptor in a packet"
    if problem:
        for fd in fds:
            os.close(fd)
        raise PacketError(problem)
    return packet, fds[0] if fds else None

"""A mount in memory with a control socket: the worker's own door and service, no kernel.

Directories are short, for the path of a Unix socket has 107 bytes.
"""

import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio

from fuse_s3_control import control_pb2 as pb
from fuse_s3_control.places import CONTROL
from fuse_s3_worker import sandbox
from fuse_s3_worker.config.parse import configure
from fuse_s3_worker.control.door import Door
from fuse_s3_worker.control.facts import Facts
from fuse_s3_worker.control.opening import Control
from fuse_s3_worker.control.place import SocketPlace, make_place
from fuse_s3_worker.statistics import KernelStatistics, StoreStatistics
from support.kernel import RecordingChannel
from support.tree import Tree

__all__ = ["SPEC", "Client", "controlled", "facts_of", "runtime", "said_to"]

SPEC = "bucket/prefix"
_REPLIES: dict[str, tuple[Any, Any]] = {
    "Status": (pb.StatusRequest, pb.StatusReply),
    "Restart": (pb.RestartRequest, pb.RestartReply),
    "SetLogLevel": (pb.SetLogLevelRequest, pb.SetLogLevelReply),
    "DropMetadata": (pb.DropMetadataRequest, pb.DropMetadataReply),
}


@contextmanager
def runtime() -> Iterator[Path]:
    """Yield a directory as /run/fuse-s3 is one."""
    path = Path(tempfile.mkdtemp(prefix="fs3-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def facts_of(t: Tree, options: str = "metadata_ttl=60") -> Facts:
    """Return the facts of a mount in memory."""
    target = SimpleNamespace(endpoint="http://127.0.0.1:1")
    caller = SimpleNamespace(
        line=SimpleNamespace(target=target),
        statistics=StoreStatistics(),
        retrier=SimpleNamespace(retries=3),
    )
    store: Any = SimpleNamespace(caller=caller)
    level = sandbox.Level(
        "best-effort", (sandbox.Layer("seccomp"), sandbox.Layer("mdwe", "too old"))
    )
    return Facts(
        spec=SPEC,
        options=options,
        configuration=configure(SPEC, options),
        level=level,
        directory="/mnt/it",
        fs=t.fs,
        store=store,
        device=-1,
        channel=RecordingChannel(),
        kernel=KernelStatistics(),
    )


class Client:
    """A client as the command is one.

    Attributes:
        facts: of the mount that is asked.
        place: where its socket is.
        door: who lets in.
    """

    def __init__(self, control: Control, place: SocketPlace, facts: Facts) -> None:
        self.facts = facts
        self.place = place
        self.door: Door = control._door
        self._channel = grpc.aio.insecure_channel(
            f"unix:{place.path / CONTROL}", options=(("grpc.enable_http_proxy", 0),)
        )

    async def ask(self, method: str, **fields: object) -> Any:  # noqa: ANN401  protobuf's
        """Make a request."""
        request, reply = _REPLIES[method]
        call = self._channel.unary_unary(
            f"/fuse_s3.control.v1.Control/{method}",
            request_serializer=request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        return await call(request(**fields), timeout=20)

    async def close(self) -> None:
        """Leave."""
        await self._channel.close()


@asynccontextmanager
async def controlled(
    t: Tree, *, owner: int | None = None, options: str = "metadata_ttl=60"
) -> AsyncIterator[Client]:
    """Serve the control socket of a mount; nothing is left of it afterwards."""
    with runtime() as home:
        place = make_place(home, home / "nobody")
        facts = facts_of(t, options)
        control = Control.open(place, facts, os.geteuid() if owner is None else owner)
        assert control is not None
        client = Client(control, place, facts)
        try:
            yield client
        finally:
            await client.close()
            await control.close()
            assert not any(place.path.iterdir())


def said_to(path: Path, data: bytes) -> socket.socket:
    """Connect to a socket and say something; return the connection."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20)
    connection.connect(str(path))
    connection.sendall(data)
    return connection

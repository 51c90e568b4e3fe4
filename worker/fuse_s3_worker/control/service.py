"""The gRPC service; imported when the first client speaks, and not before.

Requests are small and few, so what bounds them is generous to people and to nobody else. An error
of ours is one status with one line; the mount goes on.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from fuse_s3_control import control_pb2 as pb
from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.log import event

__all__ = ["RefusedError", "Subject", "UnavailableError", "start"]

_log = logging.getLogger(__name__)

_SERVICE = "fuse_s3.control.v1.Control"
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024),  # a path has 4,096 bytes
    ("grpc.max_concurrent_streams", 8),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_ping_strikes", 2),
    ("grpc.so_reuseport", 0),
)
_AT_ONCE = 8
_LAST_WORDS = 1.0  # seconds for replies under way, when the mount is gone


class UnavailableError(Exception):
    """This worker cannot do that; the text says what to do instead."""


class RefusedError(Exception):
    """The request makes no sense; the text says why."""


class Subject(Protocol):
    """The mount, as the service sees it."""

    def status(self, request: pb.StatusRequest) -> pb.StatusReply:
        """Tell everything."""

    def restart(self, request: pb.RestartRequest) -> pb.RestartReply:
        """Begin to hand over; raise UnavailableError where nobody would take over."""

    def set_log_level(self, request: pb.SetLogLevelRequest) -> pb.SetLogLevelReply:
        """Log more or less; raise RefusedError for a level that is none."""

    async def drop_metadata(self, request: pb.DropMetadataRequest) -> pb.DropMetadataReply:
        """Forget; raise RefusedError for a path that is none."""


class _Method(NamedTuple):
    """One method of the service, by the name that it has in control.proto."""

    request: Any
    call: Callable[[Any], Any]


def _methods(subject: Subject) -> dict[str, _Method]:
    return {
        "Status": _Method(pb.StatusRequest, subject.status),
        "Restart": _Method(pb.RestartRequest, subject.restart),
        "SetLogLevel": _Method(pb.SetLogLevelRequest, subject.set_log_level),
        "DropMetadata": _Method(pb.DropMetadataRequest, subject.drop_metadata),
    }


_STATUS: dict[type[Exception], grpc.StatusCode] = {
    UnavailableError: grpc.StatusCode.UNIMPLEMENTED,
    RefusedError: grpc.StatusCode.INVALID_ARGUMENT,
    DecodeError: grpc.StatusCode.INVALID_ARGUMENT,
    ServeError: grpc.StatusCode.FAILED_PRECONDITION,
}


def _handler(name: str, method: _Method) -> grpc.RpcMethodHandler:
    async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: ANN401
        event(_log, logging.DEBUG, "control", {"method": name})
        try:
            reply = method.call(method.request.FromString(data))
            return await reply if isinstance(reply, Awaitable) else reply
        except tuple(_STATUS) as error:
            code = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
            await context.abort(code, str(error))
        except Exception as error:  # noqa: BLE001  the client shall read something
            _log.error("bug", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, f"the worker failed: {error!r}")

    return grpc.unary_unary_rpc_method_handler(
        call,
        # A request that is none is our answer's business, and not the log's.
        request_deserializer=None,
        response_serializer=lambda reply: reply.SerializeToString(),
    )


class _Server:
    """A gRPC server that runs."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    async def stop(self) -> None:
        """Answer nobody any more, but those who have asked."""
        await self._server.stop(_LAST_WORDS)


async def start(subject: Subject, path: str) -> _Server:
    """Serve `subject` on the Unix socket `path`.

    Raises:
        OSError: it cannot listen there.
    """
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=_AT_ONCE)
    handlers = {name: _handler(name, method) for name, method in _methods(subject).items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen: {error}") from None
    await server.start()
    return _Server(server)

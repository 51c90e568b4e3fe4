"""Asking a worker: one request over its control socket, and what went wrong as one line."""

import os
from typing import TYPE_CHECKING, Any

from fuse_s3_control.places import CONTROL

if TYPE_CHECKING:
    from fuse_s3_cli.mounts import Worker

__all__ = ["ControlError", "ask", "shown"]

_PATIENCE = 20.0  # seconds: a busy worker, which has to import what it answers with
_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)


class ControlError(Exception):
    """The worker did not do it; one line."""


def ask(worker: "Worker", method: str, request: Any, kind: Any) -> Any:  # noqa: ANN401  protobuf's
    """Send `request` to a worker, and return its reply, a message of this `kind`.

    Raises:
        ControlError: it did not answer, or said no.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it says is for its own developers
    import grpc  # noqa: PLC0415  a heavy import, which `fuse-s3 list` does without

    address = f"unix:{worker.path / CONTROL}"
    with grpc.insecure_channel(address, options=_OPTIONS) as channel:
        call = channel.unary_unary(
            f"/fuse_s3.control.v1.Control/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=kind.FromString,
        )
        try:
            return call(request, timeout=_PATIENCE)
        except grpc.RpcError as error:
            raise ControlError(_explain(error.code(), error.details(), worker)) from None


def _explain(code: Any, details: str | None, worker: "Worker") -> str:  # noqa: ANN401  grpc's
    who = f"worker {worker.about.pid}"
    if code.name == "UNAVAILABLE":
        return f"{who} does not let you in: only root and the owner of the files may ask it"
    if code.name == "DEADLINE_EXCEEDED":
        return f"{who} does not answer within {_PATIENCE:.0f} s: see its log"
    return shown(details or code.name)


def shown(text: str) -> str:
    """Return what somebody else wrote as one line that does nothing to a terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

"""How an exchange can fail without a reply; every one of them may succeed when tried again."""

__all__ = [
    "ConnectError",
    "HttpError",
    "ProtocolError",
    "StalledError",
    "StragglerError",
    "UnexpectedCloseError",
]


class HttpError(Exception):
    """There is no complete reply. The message names the peer and what happened."""


class ConnectError(HttpError):
    """No connection: name, route, port, handshake or proxy failed."""


class UnexpectedCloseError(HttpError):
    """The peer closed before the reply was complete.

    Attributes:
        stale: not a byte came back on a connection that had been idle, so the peer most likely
            closed it before it saw the request, and sending it again costs nothing.
    """

    def __init__(self, text: str, *, stale: bool = False) -> None:
        super().__init__(text)
        self.stale = stale


class StragglerError(HttpError):
    """A download was far slower than others, and was given up to be asked for again."""


class StalledError(HttpError):
    """Nothing moved for too long."""


class ProtocolError(HttpError):
    """What came is not HTTP/1.1, or is more than any reply has."""

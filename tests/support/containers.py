"""The credentials service of a container platform: a new key each time it is asked."""

import json
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from support.s3 import Keys

__all__ = ["CredentialService"]

_TOKEN = "Bearer of good news"


class CredentialService:
    """A context manager that runs the service.

    Attributes:
        asked: how often it was asked.
    """

    def __init__(self, keys: Sequence[Keys]) -> None:
        """Prepare to hand out `keys`, one after the other; the last one for ever."""
        self.asked = 0
        self._keys = keys
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a program in a container finds it, and no other key."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{self._server.server_port}/",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": _TOKEN,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _answer(self) -> bytes:
        key = self._keys[min(self.asked, len(self._keys) - 1)]
        self.asked += 1
        fields = {"AccessKeyId": key.access, "SecretAccessKey": key.secret, "Token": ""}
        return json.dumps(fields | {"Expiration": "2099-01-01T00:00:00Z"}).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                permitted = self.headers["Authorization"] == _TOKEN
                body = service._answer() if permitted else b"{}"
                self.send_response(200 if permitted else 403)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep the tests' output clean."""

        return Handler

"""nginx in front: bytes come from and go to files in memory, names go to the back end.

A GET or HEAD of an object is a file, sent by the kernel; ranges, ETags and conditions are
nginx's. A PUT's body is received into a file, which the back end only renames: unlike nginx's
own PUT it can answer with the ETag, as every S3 client expects. The rest is the back end's.
"""

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Self

from bench.server.backend import ADOPT, IMAGINE
from bench.server.configuration import SHAPES, Pair, Shape, configuration
from bench.server.requests import RequestLog
from support.process import Child, ChildEndedError, free_port, wait_for_port, wait_until
from support.tls import make_certificate

__all__ = ["Server", "version"]

_TESTS = Path(__file__).resolve().parent.parent.parent
_ATTEMPTS = 3  # another program may have taken the port


class Server:
    """nginx and its back end, with one bucket; a context manager that starts and stops both.

    Attributes:
        bucket: the bucket's name.
        port: on the loopback interface.
        shape: how it behaves.
        requests: what was asked so far.
    """

    def __init__(
        self,
        base: Path,
        bucket: str = "bench",
        shape: Shape = SHAPES["fast"],
        *,
        tls: bool = False,
    ) -> None:
        """Use the empty directory `base`, best one in memory, for everything."""
        self.bucket = bucket
        self.port = 0
        self.requests = RequestLog(base / "requests.log")
        self._base = base
        self.shape = shape
        self._tls = tls
        self._pair: Pair | None = None
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """The endpoint's address."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path | None:
        """The certificate to trust, in a file; None without TLS."""
        return self._pair.certificate if self._pair else None

    def connect(self) -> socket.socket:
        """Return a connection for a request."""
        plain = socket.create_connection(("127.0.0.1", self.port))
        if self.ca is None:
            return plain
        context = ssl.create_default_context(cafile=self.ca)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    @property
    def pids(self) -> list[int]:
        """The processes: nginx's master, its workers, and the back end."""
        found = [child.pid for child in self._children]
        for pid in tuple(found):
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
            found += map(int, children.split())
        return found

    def file(self, key: str) -> Path:
        """Return the file that an object is, if it is there."""
        return self._base / "static" / self.bucket / key

    def adopt(self, prefix: str = "") -> None:
        """Have the back end take for objects what lies in the bucket's directory now."""
        self._tell(f"{ADOPT} /{self.bucket}/{prefix}")

    def imagine(self, prefix: str, count: int, width: int = 0) -> None:
        """Have the back end list so many keys below a directory; see server.imagined."""
        self._tell(f"{IMAGINE} /{self.bucket}/{prefix}?count={count}&width={width}")

    def _tell(self, what: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._base / "backend.sock"))
            connection.sendall(f"{what} HTTP/1.1\r\n\r\n".encode())
            if not connection.recv(1024).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"the back end did not do it: {what}")

    def __enter__(self) -> Self:
        for name in (f"static/{self.bucket}", "parts", "bodies"):
            (self._base / name).mkdir(parents=True)
        if self._tls:
            self._pair = Pair(*make_certificate(self._base))
        try:
            self._start_backend()
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    self._start_nginx()
                    break
                except ChildEndedError:
                    if attempt == _ATTEMPTS:
                        raise
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self._children):
            child.stop()
        self._children.clear()

    def _start_backend(self) -> None:
        command = [sys.executable, "-m", "bench.server.backend", str(self._base), self.bucket]
        environment = {"PATH": os.defpath, "PYTHONPATH": str(_TESTS)}
        backend = Child(command, self._base / "backend.log", environment=environment)
        self._children.append(backend)
        socket = self._base / "backend.sock"

        def listens() -> bool:
            backend.must_live()
            return socket.exists()

        wait_until(listens, "the back end")

    def _start_nginx(self) -> None:
        self.port = free_port()
        path = self._base / "nginx.conf"
        root = os.geteuid() == 0
        path.write_text(configuration(self._base, self.port, self.shape, self._pair, root=root))
        # The workers must not outlive us either: the master ends them when it is asked to, but
        # not when it is killed.
        wrapper = ["setpriv", "--pdeathsig", "TERM", "--"]
        command = ["nginx", "-e", str(self._base / "error.log"), "-c", str(path)]
        nginx = Child([*wrapper, *command], self._base / "nginx.log")
        self._children.append(nginx)
        try:
            wait_for_port(self.port, nginx)
        except ChildEndedError:
            self._children.remove(nginx)
            raise


def version() -> str:
    """Return nginx's version."""
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(": ")[2]

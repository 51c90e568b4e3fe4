"""nginx in front: bytes come from and go to files in memory, names go to the back end.

A GET or HEAD of an object is a file, sent by the kernel; ranges, ETags and conditions are
nginx's. A PUT's body is received into a file, which the back end only renames: unlike nginx's
own PUT it can answer with the ETag, as every S3 client expects. The rest is the back end's.
"""

import os
import subprocess
import sys
from pathlib import Path
from string import Template
from typing import NamedTuple, Self

from bench.server.backend import BODY_FILE
from bench.server.requests import LOG_FORMAT, RequestLog
from support.process import Child, ChildEndedError, free_port, wait_for_port, wait_until

__all__ = ["SHAPES", "Server", "Shape", "version"]

_TESTS = Path(__file__).resolve().parent.parent.parent
_ATTEMPTS = 3  # another program may have taken the port


class Shape(NamedTuple):
    """How the server behaves: further lines for nginx where it answers from files."""

    description: str
    static_lines: str = ""


SHAPES = {
    "fast": Shape("answers as fast as it can"),
}


class _Configuration(Template):
    """nginx's variables begin with a dollar sign; ours with an at sign."""

    delimiter = "@"


_CONFIGURATION = _Configuration(r"""
@user
daemon off;
worker_processes 2;
pid @base/nginx.pid;
error_log @base/error.log warn;
events { worker_connections 2048; }
http {
    log_format requests escape=none '@log_format';
    access_log @base/requests.log requests;
    client_body_temp_path @base/bodies;
    proxy_temp_path @base/unused;
    fastcgi_temp_path @base/unused;
    uwsgi_temp_path @base/unused;
    scgi_temp_path @base/unused;

    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 100000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_timeout 300s;
    merge_slashes off;
    default_type binary/octet-stream;
    server_tokens off;
    add_header x-amz-request-id $request_id always;

    upstream backend {
        server unix:@base/backend.sock;
        keepalive 32;
    }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Expect "";
    proxy_read_timeout 300s;

    # Parameters that change nothing about a GET may be there; any other asks for something else.
    map "$request_method $uri?$args" $way {
        default                                            backend;
        "~^(GET|HEAD) /[^/]+/.*[^/]\?(x-id=\w+|versionId=null)?$" static;
        "~^PUT "                                           stored;
    }
    server {
        listen 127.0.0.1:@port;
        rewrite ^ /$way$uri last;
        location /static/ {
            root @base;
            @static_lines
            try_files $uri @@names;
        }
        location /stored/ {
            client_body_in_file_only clean;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header @body_file $request_body_file;
            proxy_pass http://backend$request_uri;
        }
        location /backend/ { proxy_pass http://backend$request_uri; }
        location @@names { proxy_pass http://backend$request_uri; }
    }
}
""")


class Server:
    """nginx and its back end, with one bucket; a context manager that starts and stops both.

    Attributes:
        bucket: the bucket's name.
        port: on the loopback interface.
        requests: what was asked so far.
    """

    def __init__(self, base: Path, bucket: str = "bench", shape: Shape = SHAPES["fast"]) -> None:
        """Use the empty directory `base`, best one in memory, for everything."""
        self.bucket = bucket
        self.port = 0
        self.requests = RequestLog(base / "requests.log")
        self._base = base
        self._shape = shape
        self._children: list[Child] = []

    @property
    def url(self) -> str:
        """The endpoint's address."""
        return f"http://127.0.0.1:{self.port}"

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

    def __enter__(self) -> Self:
        for name in (f"static/{self.bucket}", "parts", "bodies"):
            (self._base / name).mkdir(parents=True)
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
        configuration = self._base / "nginx.conf"
        configuration.write_text(self._configuration())
        # The workers must not outlive us either: the master ends them when it is asked to, but
        # not when it is killed.
        wrapper = ["setpriv", "--pdeathsig", "TERM", "--"]
        command = ["nginx", "-e", str(self._base / "error.log"), "-c", str(configuration)]
        nginx = Child([*wrapper, *command], self._base / "nginx.log")
        self._children.append(nginx)
        try:
            wait_for_port(self.port, nginx)
        except ChildEndedError:
            self._children.remove(nginx)
            raise

    def _configuration(self) -> str:
        return _CONFIGURATION.substitute(
            # The back end renames what the workers write, and they serve what it stores.
            user="user root;" if os.geteuid() == 0 else "",
            base=self._base,
            log_format=LOG_FORMAT,
            port=self.port,
            body_file=BODY_FILE,
            static_lines=self._shape.static_lines,
        )


def version() -> str:
    """Return nginx's version."""
    done = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    return done.stderr.strip().rpartition(": ")[2]

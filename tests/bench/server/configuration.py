"""What nginx is told: where what is, and how slow the server pretends to be."""

from pathlib import Path
from string import Template
from typing import NamedTuple

from bench.server.backend import BODY_FILE
from bench.server.requests import LOG_FORMAT

__all__ = ["SHAPES", "Shape", "configuration"]


class Shape(NamedTuple):
    """How the server behaves.

    Attributes:
        description: for people.
        delay: seconds before the first byte of every reply.
        rate: bytes a second of one connection, either way; 0 for as many as possible.
    """

    description: str
    delay: float = 0.0
    rate: int = 0

    def waiting(self, size: int) -> float:
        """Return the seconds that a request of `size` bytes takes at least."""
        return self.delay + (size / self.rate if self.rate else 0.0)

    @property
    def packages(self) -> tuple[str, ...]:
        """Debian's packages that this takes."""
        return ("nginx", "libnginx-mod-http-lua") if self.delay or self.rate else ("nginx",)


SHAPES = {
    "fast": Shape("answers as fast as it can"),
    "s3like": Shape("20 ms before the first byte, 90 MB/s for each connection", 0.02, 90_000_000),
}


class _Configuration(Template):
    """nginx's variables begin with a dollar sign; ours with an at sign."""

    delimiter = "@"


_CONFIGURATION = _Configuration(r"""
@modules
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
        listen 127.0.0.1:@port@tls;
        rewrite ^ /$way$uri last;
        location /static/ {
            @slow_reply
            root @base;
            try_files $uri @@names;
        }
        location /stored/ {
            @slow_body
            client_body_in_file_only clean;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header @body_file $request_body_file;
            proxy_pass http://backend$request_uri;
        }
        location /backend/ {
            @slow_reply
            proxy_pass http://backend$request_uri;
        }
        location @@names { proxy_pass http://backend$request_uri; }
    }
}
""")

_LUA = """
load_module modules/ndk_http_module.so;
load_module modules/ngx_http_lua_module.so;"""

# nginx counts whole seconds, in which limit_rate alone would let a small reply through at once;
# what it does after each piece is exact. Pieces are as long as ten of its timer's steps.
_SLOW_REPLY = _Configuration("""
            access_by_lua_block { ngx.sleep(@delay) }
            limit_rate @rate;
            sendfile_max_chunk @piece;
            output_buffers 2 @piece;""")

# nginx cannot receive slowly. The answer waits until the body would have been here, which for
# whoever sends one body at a time on a connection comes to the same.
_SLOW_BODY = _Configuration("""
            access_by_lua_block {
                ngx.req.read_body()
                local size = tonumber(ngx.var.http_content_length) or 0
                ngx.update_time()
                local left = @delay + size / @rate - (ngx.now() - ngx.req.start_time())
                if left > 0 then ngx.sleep(left) end
            }""")

_TLS = _Configuration(""" ssl;
        ssl_certificate @certificate;
        ssl_certificate_key @key;
        ssl_session_cache shared:sessions:1m""")


class Pair(NamedTuple):
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


def configuration(base: Path, port: int, shape: Shape, tls: Pair | None, *, root: bool) -> str:
    """Return the whole configuration of a server in `base`."""
    slow = {"delay": shape.delay, "rate": shape.rate, "piece": shape.rate // 100}
    is_slow = bool(shape.delay or shape.rate)
    return _CONFIGURATION.substitute(
        modules=_LUA if is_slow else "",
        # The back end renames what the workers write, and they serve what it stores.
        user="user root;" if root else "",
        base=base,
        log_format=LOG_FORMAT,
        port=port,
        tls=_TLS.substitute(tls._asdict()) if tls else "",
        body_file=BODY_FILE,
        slow_reply=_SLOW_REPLY.substitute(slow) if is_slow else "",
        slow_body=_SLOW_BODY.substitute(slow) if is_slow else "",
    )

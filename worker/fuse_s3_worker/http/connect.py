"""Making connections: names to addresses, addresses to sockets, through a proxy if there is one."""

import asyncio
import base64
import errno
import ipaddress
import socket
import ssl
import time
from typing import NamedTuple, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from fuse_s3_worker.http.connection import Connection
from fuse_s3_worker.http.errors import ConnectError

__all__ = ["Connector", "Endpoint", "Proxy", "proxy_for"]

CONNECT_TIMEOUT = 5.0  # seconds for one address: a dead one must not use up a mount's patience
_RESOLVE_TTL = 5.0  # seconds; what S3's own names have
_AVOID = 60.0  # seconds until an address that was slow is tried again
_TUNNEL_REPLY_MAX = 16 * 1024


class Endpoint(NamedTuple):
    """Where requests go. `host` is a name or an address, without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of the Host header: without the scheme's usual port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = {"http": 80, "https": 443}[self.scheme]
        return host if self.port == usual else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class Proxy(NamedTuple):
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    authorization: str


def proxy_for(endpoint: Endpoint) -> Proxy | None:
    """Return the proxy that the environment names for `endpoint` (HTTP_PROXY, NO_PROXY ...).

    Raises:
        ConnectError: what it names is not the URL of an HTTP proxy.
    """
    proxies = getproxies_environment()
    url = proxies.get(endpoint.scheme) or proxies.get("all")
    if not url or proxy_bypass(endpoint.authority, proxies):
        return None
    try:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        port = parts.port or 80
    except ValueError:  # it may have a password, and so may the error's text
        raise ConnectError("proxy: the environment has no valid URL for it") from None
    if parts.scheme != "http" or not parts.hostname:
        raise ConnectError(
            f"proxy {parts.scheme}://{parts.hostname}: only http:// proxies are known"
        )
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    return Proxy(parts.hostname, port, authorization)


class Connector:
    """Makes connections to one endpoint, over all the addresses it has in turn."""

    def __init__(
        self, endpoint: Endpoint, *, tls: ssl.SSLContext | None = None, proxy: Proxy | None = None
    ) -> None:
        self.endpoint = endpoint
        self.proxy = proxy
        self._tls = tls if endpoint.scheme == "https" else None
        self._peer = (proxy.host, proxy.port) if proxy else (endpoint.host, endpoint.port)
        self._addresses: list[str] = []
        self._resolved_until = 0.0
        self._avoided: dict[str, float] = {}  # until when
        self._turn = 0

    async def connect(self) -> Connection:
        """Return a new connection.

        Raises:
            ConnectError: no address answers; the message has every reason.
        """
        reasons = {}
        for address in await self._next_addresses():
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    return await self._connect_to(address)
            except TimeoutError:
                reasons[address] = f"no answer within {CONNECT_TIMEOUT:.0f} s"
            except ssl.SSLCertVerificationError as error:
                reasons[address] = f"certificate not trusted: {error.verify_message}"
            except (OSError, ConnectError) as error:
                reasons[address] = self._reason(error)
        self._resolved_until = 0.0
        why = "; ".join(f"{address}: {reason}" for address, reason in reasons.items())
        raise ConnectError(f"cannot connect to {self._name()}: {why}")

    def _reason(self, error: OSError | ConnectError) -> str:
        if isinstance(error, OSError) and error.errno == errno.EACCES:
            return f"port {self._peer[1]} is closed to this worker, see sandbox="
        return str(error) or type(error).__name__

    def _name(self) -> str:
        through = f" through proxy {self._peer[0]}:{self._peer[1]}" if self.proxy else ""
        return f"{self.endpoint}{through}"

    def avoid(self, address: str) -> None:
        """Use an address only where there is no other, for a while."""
        now = time.monotonic()
        self._avoided = {one: until for one, until in self._avoided.items() if until > now}
        self._avoided[address] = now + _AVOID

    def avoids(self, address: str) -> bool:
        """Tell whether that is so."""
        return bool(self._avoided) and self._avoided.get(address, 0.0) > time.monotonic()

    async def _next_addresses(self) -> list[str]:
        """Return all addresses, beginning with another one each time; the slow ones come last."""
        if time.monotonic() >= self._resolved_until:
            self._addresses = await self._resolve()
            self._resolved_until = time.monotonic() + _RESOLVE_TTL
        self._turn += 1
        at = self._turn % len(self._addresses)
        return sorted(self._addresses[at:] + self._addresses[:at], key=self.avoids)

    async def _resolve(self) -> list[str]:
        host, port = self._peer
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return [host]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectError(f"cannot resolve {host}: {error.strerror or error}") from None
        except UnicodeError as error:  # a label of no or more than 63 characters
            raise ConnectError(f"cannot resolve {host}: {error}") from None
        return list(dict.fromkeys(str(info[4][0]) for info in found))

    async def _connect_to(self, address: str) -> Connection:
        loop = asyncio.get_running_loop()
        if self.proxy and self._tls:
            connection = await self._connect_tunnel(address, self.proxy, self._tls)
        else:
            _, connection = await loop.create_connection(
                Connection,
                address,
                self._peer[1],
                ssl=self._tls,
                server_hostname=self.endpoint.host if self._tls else None,
            )
        connection.address = address
        return connection

    async def _connect_tunnel(self, address: str, proxy: Proxy, tls: ssl.SSLContext) -> Connection:
        """Ask the proxy for a tunnel (RFC 9110, CONNECT), then speak TLS through it."""
        loop = asyncio.get_running_loop()
        transport, tunnel = await loop.create_connection(_Tunnel, address, proxy.port)
        host = f"[{self.endpoint.host}]" if ":" in self.endpoint.host else self.endpoint.host
        target = f"{host}:{self.endpoint.port}"
        credentials = (
            f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
        )
        transport.write(
            f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n".encode("latin-1")
        )
        try:
            await tunnel.opened
            connection = Connection()
            secure = await loop.start_tls(
                transport, connection, tls, server_hostname=self.endpoint.host
            )
        except BaseException:
            transport.abort()
            raise
        # start_tls hands over an open transport without saying so to its protocol.
        connection.connection_made(cast(asyncio.Transport, secure))
        return connection


class _Tunnel(asyncio.Protocol):
    """Waits for the proxy's answer to CONNECT."""

    def __init__(self) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reply = b""

    def data_received(self, data: bytes) -> None:
        self._reply += data
        if len(self._reply) > _TUNNEL_REPLY_MAX:
            self._settle(ConnectError("the proxy's reply has no end"))
        elif b"\r\n\r\n" in self._reply:
            status = self._reply.split(b"\r\n", 1)[0].decode("latin-1", "replace")
            if status.split(" ")[1:2] == ["200"]:
                self._settle(None)
            else:
                self._settle(ConnectError(f"the proxy refuses the tunnel: {status[:100]}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(ConnectError(f"the proxy closed the connection: {exc or 'no reason given'}"))

    def _settle(self, error: Exception | None) -> None:
        if self.opened.done():
            return
        if error is None:
            self.opened.set_result(None)
        else:
            self.opened.set_exception(error)

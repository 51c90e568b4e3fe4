"""A bounded set of connections to one endpoint.

Requests queue here and nowhere else. Metadata (`urgent`) goes before data and has a few
connections that data may not take, so that `ls` answers while ten streams are running.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from fuse_s3_worker.http.connect import Connector
from fuse_s3_worker.http.connection import Buffer, Connection, Reply, Sink
from fuse_s3_worker.http.errors import StalledError, StragglerError
from fuse_s3_worker.http.pace import Pace, Progress
from fuse_s3_worker.log import event

__all__ = ["Pool", "PoolStatistics"]

_log = logging.getLogger(__name__)

STALL_TIMEOUT = 30.0  # seconds without a byte in either direction; S3 closes after 20 to 60
_IDLE_TIMEOUT = 15.0  # seconds; S3's front ends close idle connections after about 20
_TICK = 1.0
_WITH_DATA = frozenset({200, 206})


class PoolStatistics(NamedTuple):
    """A moment's counts."""

    busy: int
    idle: int
    waiting: int
    connections_made: int
    exchanges: int
    given_up: int = 0  # downloads that were slow, and asked for again


class Pool:
    """Connections by demand, at most `limit`; the last used idle one is used first."""

    def __init__(
        self, connector: Connector, *, limit: int, stall_timeout: float = STALL_TIMEOUT
    ) -> None:
        self.connector = connector
        self._limit = limit
        self._bulk_limit = limit - max(1, limit // 8) if limit > 1 else limit
        self._stall_timeout = stall_timeout
        self._idle: list[tuple[float, Connection]] = []
        self._busy: dict[Connection | object, _Watched | None] = {}
        self._waiting: dict[bool, deque[asyncio.Future[object]]] = {True: deque(), False: deque()}
        self._connections_made = 0
        self._exchanges = 0
        self._pace = Pace()
        self._given_up = 0
        self._ticker: asyncio.TimerHandle | None = None

    async def exchange(
        self,
        head: bytes,
        body: Iterable[Buffer] = (),
        sink: Sink | None = None,
        *,
        urgent: bool = False,
        patience: float = 0.0,
    ) -> Reply:
        """Send a request over a connection of its own, and return the reply.

        `patience` is for how many seconds nothing may be heard, where that is longer than usual.

        Raises:
            HttpError: there is no reply; nothing is tried again here.
        """
        place = await self._enter(urgent=urgent)
        connection = None
        try:
            connection = self._take_idle() or await self._connect()
            del self._busy[place]
            place = connection
            watched = self._busy[connection] = _Watched(
                connection,
                downloads=sink is not None,
                patience=max(patience, self._stall_timeout),
            )
            self._exchanges += 1
            self._start_ticking()
            reply = await connection.exchange(head, body, sink)
            if watched.downloads and reply.head.status in _WITH_DATA:
                self._note(watched.progress(), connection)
            return reply
        finally:
            self._leave(place, connection)

    @property
    def limit(self) -> int:
        """Exchanges that can be under way at once."""
        return self._limit

    def statistics(self) -> PoolStatistics:
        """Return the counts of this moment."""
        # One who was cancelled stays in the queue until its turn comes.
        waiting = sum(not turn.done() for queue in self._waiting.values() for turn in queue)
        return PoolStatistics(
            len(self._busy),
            len(self._idle),
            waiting,
            self._connections_made,
            self._exchanges,
            self._given_up,
        )

    def close(self) -> None:
        """Drop all connections; exchanges under way fail."""
        if self._ticker:
            self._ticker.cancel()
        for _, connection in self._idle:
            connection.abort()
        self._idle.clear()
        for busy in list(self._busy):
            if isinstance(busy, Connection):
                busy.abort()

    def _note(self, done: Progress, connection: Connection) -> None:
        """Learn from a download; leave an address that is slow beside others."""
        address = connection.address
        self._pace.note(done, address)
        if self._pace.slow_address(address):
            self.connector.avoid(address)
            details: dict[str, object] = {"endpoint": self.connector.endpoint, "address": address}
            event(_log, logging.INFO, "slow_address", details)

    # -- places ---------------------------------------------------------------------------------

    def _has_place(self, *, urgent: bool) -> bool:
        return len(self._busy) < (self._limit if urgent else self._bulk_limit)

    async def _enter(self, *, urgent: bool) -> object:
        """Wait for a place; it is taken under a placeholder until there is a connection."""
        queue = self._waiting[urgent]
        if not queue and self._has_place(urgent=urgent):
            return self._reserve()
        turn: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(turn.result(), None)  # the place was given in the same moment
            raise

    def _reserve(self) -> object:
        place = object()
        self._busy[place] = None
        return place

    def _leave(self, place: object, connection: Connection | None) -> None:
        self._busy.pop(place, None)
        if connection is not None and self.connector.avoids(connection.address):
            connection.reusable = False
        if connection is not None and connection.reusable and connection.open:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        elif connection is not None:
            connection.abort()
        self._wake()

    def _wake(self) -> None:
        """Give free places to who waits first, metadata before data."""
        for urgent in (True, False):
            queue = self._waiting[urgent]
            while queue and self._has_place(urgent=urgent):
                turn = queue.popleft()
                if not turn.done():
                    # Taken now, not when the waiter runs: nobody may come in between.
                    turn.set_result(self._reserve())

    def _take_idle(self) -> Connection | None:
        while self._idle:
            _, connection = self._idle.pop()
            if connection.open and not self.connector.avoids(connection.address):
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        connection = await self.connector.connect()
        self._connections_made += 1
        return connection

    # -- time -----------------------------------------------------------------------------------

    def _give_up_stragglers(self, downloads: "list[_Watched]") -> None:
        for number in self._pace.stragglers([one.progress() for one in downloads]):
            self._given_up += 1
            text = f"{self.connector.endpoint}: a download far slower than others is asked for anew"
            downloads[number].connection.fail(StragglerError(text))

    def _start_ticking(self) -> None:
        """One timer for all connections, running only while there are some."""
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        now = asyncio.get_running_loop().time()
        watched = [one for one in self._busy.values() if one is not None]
        for one in watched:
            if one.stalled_for() > one.patience:
                text = f"{self.connector.endpoint}: nothing for {one.patience:.0f} s"
                one.connection.fail(StalledError(text))
        self._give_up_stragglers([one for one in watched if one.downloads])
        while self._idle and now - self._idle[0][0] > _IDLE_TIMEOUT:
            self._idle.pop(0)[1].abort()
        if self._busy or self._idle:
            self._start_ticking()


class _Watched:
    """An exchange under way, and how it moves."""

    def __init__(self, connection: Connection, *, downloads: bool, patience: float) -> None:
        self.connection = connection
        self.downloads = downloads
        self.patience = patience
        self._begun = asyncio.get_running_loop().time()
        self._moved = connection.moved
        self._seen = (-1, -1)
        self._since = 0.0

    def stalled_for(self) -> float:
        """Return for how many seconds nothing has moved, as far as anybody has looked."""
        now = asyncio.get_running_loop().time()
        state = (self.connection.moved, self.connection.unsent)
        if state != self._seen:
            self._seen, self._since = state, now
        return now - self._since

    def progress(self) -> Progress:
        """Return how far it has come."""
        first = self.connection.first_byte_at
        return Progress(
            elapsed=asyncio.get_running_loop().time() - self._begun,
            waited=None if first is None else max(first - self._begun, 0.0),
            size=self.connection.moved - self._moved,
        )

"""A connection pool with deadlines.

After any error except a rejected statement a connection is terminated, never reused: after a server restart idle connections
fail with errors of every class, and a half-open connection would hang in its own cleanup.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Any, Self

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.errors import DatabaseUnavailable
from service.failpoints import failpoint
from service.postgres.addresses import Dsn, current
from service.postgres.driver_errors import database_errors, unavailable
from service.postgres.free_connections import FreeConnections
from service.postgres.session import connect
from service.postgres.shares import Shares
from sql import statement

CALL_TIMEOUT = timedelta(seconds=5)
"""Timeout for connecting and for each statement."""
_SERVER_SHARE = 0.9
"""The server's statement timeout as a share of ours. A server-side timeout proves that the statement was rolled back. A
client-side timeout does not: a statement waiting for a lock could still commit later."""
_CLOSE_TIMEOUT = timedelta(seconds=3)
_SESSION = {
    "default_transaction_isolation": "read committed",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
}
"""Settings that override defaults of the role. Read-only mode is not among them: providers set it on a full disk."""
_IDLE_TIME = timedelta(minutes=1)
"""Idle connections are closed before load balancers and NAT tables drop them."""


class Database:
    """A pool on one database. `pooler`: a transaction pooler is in front of it, so prepared statements are not used.

    `session` has further parameters of the server for each connection; a pooler gets none.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        application_name: str,
        size: int,
        pooler: bool = False,
        timeout: timedelta = CALL_TIMEOUT,
        session: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.size = size
        self.on_acquired: Callable[[float], object] = _ignore
        """Called with the seconds that a call waited for its connection, also if it got none."""
        self._timeout = timeout
        self._shares = Shares(size)
        seconds = timeout.total_seconds()
        milliseconds = str(int(seconds * _SERVER_SHARE * 1000))
        own = {**_SESSION, "application_name": application_name, "statement_timeout": milliseconds}
        self._pool = asyncpg.create_pool(
            connect=partial(_connect, dsn, pooler=pooler),
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=_IDLE_TIME.total_seconds(),
            command_timeout=seconds,
            timeout=seconds,
            reset=_leave_as_it_is,
            statement_cache_size=0 if pooler else 100,
            server_settings=None if pooler else {**own, **session},
        )
        self._free = FreeConnections(self._pool, timeout=timeout, lifetime=_IDLE_TIME)

    async def __aenter__(self) -> Self:
        await self._pool
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT.total_seconds()):
                await self._free.close()
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @property
    def used(self) -> int:
        """How many connections are in use."""
        return self._pool.get_size() - self.idle

    @property
    def idle(self) -> int:
        """How many connections are open and not in use."""
        return self._pool.get_idle_size() + len(self._free)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """A connection for a few statements. Raises DatabaseUnavailable; a rejected statement raises the driver's error."""
        with database_errors():
            async with self._shares.turn(self._timeout):
                started = time.perf_counter()
                try:
                    connection = await self._free.take()
                finally:
                    self.on_acquired(time.perf_counter() - started)
                usable = False
                try:
                    yield connection
                    usable = True
                except asyncpg.PostgresError as error:
                    usable = not unavailable(error)
                    raise
                finally:
                    await self._free.give_back(connection, usable=usable)

    async def fetch(self, name: str, *arguments: Any, point: str | None = None) -> list[asyncpg.Record]:
        """All rows of a named statement. `point` is the failpoint between its commit and its response."""
        async with self.connection() as connection:
            rows = await connection.fetch(statement(name), *arguments)
            if point is not None:
                await failpoint(point)
            return rows

    async def fetch_row(self, name: str, *arguments: Any, point: str | None = None) -> asyncpg.Record | None:
        """The first row of a named statement, or None. `point` as in `fetch`."""
        async with self.connection() as connection:
            row = await connection.fetchrow(statement(name), *arguments)
            if point is not None:
                await failpoint(point)
            return row

    async def read_row(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        """`fetch_row` for read-only statements: retried once, because the first connection may have been dead."""
        try:
            return await self.fetch_row(name, *arguments)
        except DatabaseUnavailable:
            return await self.fetch_row(name, *arguments)

    async def ping(self) -> None:
        """Check that the database responds. Raises DatabaseUnavailable."""
        await self.read_row("ping")


def _ignore(_: float) -> None:
    """Nobody measures the waits."""


async def _connect(dsn: Dsn, *_: Any, pooler: bool, **options: Any) -> asyncpg.Connection:
    """Replaces the driver's connect, which would use the URL of the first connection for all of them."""
    if pooler:
        return await asyncpg.connect(current(dsn), **options)
    return await connect(dsn, **options)


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """Replaces the driver's reset, which costs a round trip after every use: our statements do not change the session."""

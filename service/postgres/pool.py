"""Connections with deadlines, and the translation of the driver's errors.

A connection that saw any error but a refused statement is terminated, never reused: after a restart of the server idle
connections fail with errors of every class, and a half-open one would hang in its own clean-up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.errors import DatabaseUnavailable
from service.failpoints import failpoint
from sql import statement

CALL_TIMEOUT = 5.0
"""Seconds a connection, or a statement on it, may take."""
_SERVER_SHARE = 0.9
"""The server gives up on a statement this much earlier than we do. Its answer says that nothing was committed; our own
giving up says nothing, and what waits for a lock would be done after all once nobody hears of it."""
_RELEASE_TIMEOUT = 3.0
_IDLE_SECONDS = 60.0
"""Idle connections are closed before load balancers and NAT tables forget them."""

_UNAVAILABLE_CLASSES = ("08", "25", "40", "53", "55", "57", "58")
"""SQLSTATE classes in which the server, not the statement, is at fault: connection, read-only after a failover,
rollback by deadlock, resources, lock timeout, operator intervention, system error."""


def unavailable(error: BaseException) -> bool:
    """Whether this error says that the database cannot serve us now, rather than that a statement is wrong."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _UNAVAILABLE_CLASSES or isinstance(
            error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError
        )
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | TimeoutError)


class Database:
    """A pool on one database. `pooler` means that a transaction pooler stands between: no prepared statements then."""

    def __init__(
        self, dsn: str, *, application_name: str, size: int, pooler: bool = False, timeout: float = CALL_TIMEOUT
    ) -> None:
        self._timeout = timeout
        milliseconds = str(int(timeout * _SERVER_SHARE * 1000))
        session = {"application_name": application_name, "statement_timeout": milliseconds}
        self._pool = asyncpg.create_pool(
            dsn,
            min_size=0,
            max_size=size,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            command_timeout=timeout,
            timeout=timeout,
            reset=_leave_as_it_is,
            statement_cache_size=0 if pooler else 100,
            server_settings=None if pooler else session,
        )

    async def __aenter__(self) -> Self:
        await self._pool
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["PoolConnectionProxy[asyncpg.Record]"]:
        """A connection for a few statements. Raises DatabaseUnavailable; a refused statement raises as it is."""
        try:
            connection = await self._pool.acquire(timeout=self._timeout)
        except Exception as error:
            if unavailable(error):
                raise DatabaseUnavailable(detail=describe(error)) from error
            raise
        usable = False
        try:
            yield connection
            usable = True
        except Exception as error:
            usable = isinstance(error, asyncpg.PostgresError) and not unavailable(error)
            if unavailable(error):
                raise DatabaseUnavailable(detail=describe(error)) from error
            raise
        finally:
            # What was answered stands, whether or not the connection can be used again: one that cannot be reset is
            # terminated by the driver, and one of whose end it has learned was taken back already.
            with suppress(Exception):
                if not usable:
                    connection.terminate()
                await self._pool.release(connection, timeout=_RELEASE_TIMEOUT)

    async def fetch(self, name: str, *arguments: Any, point: str | None = None) -> list[asyncpg.Record]:
        """All rows of a named statement. `point` names the failpoint between its commit and its answer."""
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
        """`fetch_row` for statements that change nothing: asked once more where the first connection proved dead."""
        try:
            return await self.fetch_row(name, *arguments)
        except DatabaseUnavailable:
            return await self.fetch_row(name, *arguments)


async def _leave_as_it_is(_: asyncpg.Connection) -> None:
    """In place of the driver's reset, a round trip to the server after every use: our statements change no session."""


def describe(error: BaseException) -> str:
    """The error for operators: class and SQLSTATE, and the server's own words where they hold no data of rows."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} {error.sqlstate}: {error.message if unavailable(error) else ''}".rstrip(": ")
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__

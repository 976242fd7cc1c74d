"""Connections that wait for the next statement outside the driver's pool.

The driver needs 40 µs of CPU time to give a connection out and to take it back, as much as for a small statement.
"""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

import asyncpg
from asyncpg.pool import PoolConnectionProxy

_RELEASE_TIMEOUT = timedelta(seconds=3)


class FreeConnections:
    """Takes connections from `pool` and keeps them while nobody waits for one, until they were free for `lifetime`.

    `timeout` limits the wait for a connection.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", *, timeout: timedelta, lifetime: timedelta) -> None:
        self._pool = pool
        self._timeout = timeout.total_seconds()
        self._lifetime = lifetime.total_seconds()
        self._free: list[tuple[PoolConnectionProxy[asyncpg.Record], float]] = []
        """Each with the time since when it is free, the latest last."""
        self._waiting = 0
        self._expiry: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        """How many connections are free."""
        return len(self._free)

    async def take(self) -> "PoolConnectionProxy[asyncpg.Record]":
        """A connection for the caller alone. Raises TimeoutError, and what the driver raises when it cannot connect."""
        while self._free:
            connection, _ = self._free.pop()
            with suppress(asyncpg.InterfaceError):  # raised for a connection that broke: the driver has taken it back
                if not connection.is_closed():
                    return connection
            await self._release(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._timeout)
        finally:
            self._waiting -= 1

    async def give_back(self, connection: "PoolConnectionProxy[asyncpg.Record]", *, usable: bool) -> None:
        """End the caller's use of a connection. Never raises: what the caller did with it stands."""
        if not usable:
            with suppress(Exception):
                connection.terminate()
        if not usable or self._waiting or self._closed:
            await self._release(connection)
            return
        self._free.append((connection, time.monotonic()))
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._lifetime, self._expire)

    async def close(self) -> None:
        """Return all connections to the pool, also those that are given back later."""
        self._closed = True
        if self._expiry is not None:
            self._expiry.cancel()
        while self._free:
            await self._release(self._free.pop()[0])

    def _expire(self) -> None:
        now = time.monotonic()
        while self._free and now - self._free[0][1] >= self._lifetime:
            with suppress(Exception):
                self._free.pop(0)[0].terminate()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(self._lifetime, self._expire) if self._free else None

    async def _release(self, connection: "PoolConnectionProxy[asyncpg.Record]") -> None:
        # The driver terminates a connection that it cannot reset, and has already removed one that it knows to be closed.
        with suppress(Exception):
            await self._pool.release(connection, timeout=_RELEASE_TIMEOUT.total_seconds())

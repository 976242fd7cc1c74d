"""Reads of a check on a database of somebody else: each has a deadline on the server, and all of them together have one."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import asyncpg

from service.failures import SourceUnavailable

_GRACE = timedelta(seconds=2)
"""Time for the response after the server's deadline, before the connection counts as dead."""


class OutOfTime(Exception):
    """A read took longer than its deadline, or no time is left for it."""


class BoundedReads:
    """Reads rows on one connection. A read takes at most `each`, all reads together take at most `total`."""

    def __init__(self, connection: asyncpg.Connection, *, each: timedelta, total: timedelta) -> None:
        self.connection = connection
        self.each = each
        self._ends = time.monotonic() + total.total_seconds()

    @property
    def seconds_left(self) -> float:
        """Seconds until all reads must have ended; at least 0."""
        return max(0.0, self._ends - time.monotonic())

    async def row(self, text: str, *arguments: Any) -> asyncpg.Record:
        """The only row of a statement. Raises OutOfTime; SourceUnavailable if the server is silent; the driver's errors."""
        (row,) = await self.rows(text, *arguments)
        return row

    async def rows(self, text: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows of a statement. Raises as `row`."""
        await self.limit()
        try:
            async with asyncio.timeout((self.each + _GRACE).total_seconds()):
                return await self.connection.fetch(text, *arguments)
        except asyncpg.QueryCanceledError as error:
            raise OutOfTime from error
        except TimeoutError as error:
            raise SourceUnavailable(detail="the server does not respond to a statement after its deadline") from error

    async def limit(self) -> None:
        """Set the deadline of the next statement on the server. Raises OutOfTime if no time is left."""
        milliseconds = int(min(self.each.total_seconds(), self.seconds_left) * 1000)
        if milliseconds == 0:
            raise OutOfTime
        await self.connection.execute(f"SET statement_timeout = {milliseconds}")

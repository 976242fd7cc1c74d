"""Rate-limit windows in the main database, so that they are shared by replicas and survive restarts.

Only the database's clock decides which hits are in a window. Python gets the age of a hit, never its time of day, so a
process with a wrong clock still reports the right waiting time.
"""

import time
from datetime import timedelta

from limits import RateLimitItem
from limits.util import WindowStats

from service.postgres.pool import Database

_PRUNE_BATCH = 1000
"""Rows per call, so that the statement finishes well within its timeout."""


class PostgresWindows:
    """Windows in the table `rate_limit_windows`. Methods raise DatabaseUnavailable, so no hit goes uncounted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hit(self, item: RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        """Record a hit if it fits into the window; whether it did, and the window after it.

        A granted hit is one statement: each further one would make the request wait for the event loop.
        """
        key, length = item.key_for(*identifiers), _length(item)
        row = await self._database.fetch_row("record_hit", key, item.amount, length)
        if row is None:
            return False, await self.stats(item, *identifiers)
        return True, _stats(item, row["age"], row["hits"])

    async def stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the oldest hit leaves the window, as `time.time()`, and how many calls still fit."""
        row = await self._database.read_row("rate_limit_window", item.key_for(*identifiers), _length(item))
        assert row is not None
        return _stats(item, row["age"] or 0.0, row["hits"])

    async def prune(self) -> int:
        """Delete windows whose hits have all expired, one batch per call; returns the count."""
        return len(await self._database.fetch("prune_rate_limits", _PRUNE_BATCH))


def _length(item: RateLimitItem) -> timedelta:
    return timedelta(seconds=item.get_expiry())


def _stats(item: RateLimitItem, age: float, hits: int) -> WindowStats:
    return WindowStats(time.time() - age + item.get_expiry(), item.amount - hits)

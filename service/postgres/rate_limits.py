"""Rate-limit windows in the main database, so that they are shared by replicas and survive restarts.

Only the database's clock decides which hits are in a window. Python gets the age of a hit, never its time of day, so a
process with a wrong clock still reports the right waiting time.
"""

import time
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
from limits import RateLimitItem
from limits.util import WindowStats

from service.errors import DatabaseUnavailable
from service.model import Scope
from service.postgres.access import Credential
from service.postgres.driver_errors import connection_was_lost
from service.postgres.pool import Database
from sql import fragment, statement

_MOST_EXACT = 100
"""Highest limit whose hits are stored one by one. With 30 stored times a hit costs Postgres 90 µs, with 1,000 it would cost
475 µs. Merged into 1/64 of the window it costs 100 µs for any limit."""
_PRUNE_BATCH = 1000
"""Rows per call, so that the statement finishes well within its timeout."""

_SPACE = "{space}"


@dataclass(frozen=True, slots=True)
class Admission:
    """The credential of a key, None if it is unknown, revoked or expired; and the window after the hit.

    The window is None if no hit was recorded: the key is not that of the credential, it lacks the scope, the subscription of
    its Space is inactive, or the hit does not fit.
    """

    credential: Credential | None
    window: WindowStats | None


class PostgresWindows:
    """Windows in the table `rate_limit_windows`. Methods raise DatabaseUnavailable, so no hit goes uncounted."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def hit(self, item: RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        """Record a hit if it fits into the window; whether it did, and the window after it.

        A granted hit is one statement: each further one would make the request wait for the event loop.
        """
        row = await self._record(statement("record_hit"), item, _key(item, *identifiers))
        if row is None:
            return False, await self.stats(item, *identifiers)
        return True, _stats(item, row["age"], row["hits"])

    async def admit(self, item: RateLimitItem, bucket: str, key_id: str, key_sha256: bytes, scope: Scope) -> Admission:
        """Look a key up and, if it allows the call, record a hit in the window of its Space: one statement for both.

        Retried once if the connection was lost, as after a restart of the database; then the hit may count twice.
        """
        before, after = _key(item, bucket, _SPACE).split(_SPACE)
        admit = partial(self._record, statement("admit"), item, key_id, key_sha256, scope, before, after)
        try:
            row = await admit()
        except DatabaseUnavailable as error:
            if not connection_was_lost(error.__cause__):
                raise
            row = await admit()
        if row is None:
            return Admission(None, None)
        window = None if row["hits"] is None else _stats(item, row["age"], row["hits"])
        return Admission(Credential.of_row(row), window)

    async def _record(self, text: str, item: RateLimitItem, *arguments: Any) -> asyncpg.Record | None:
        """Run a statement with the fragment that records a hit of this limit, in place of its marker."""
        text = text.replace("/* hit */", fragment("merged_hit" if _merges(item) else "exact_hit"))
        async with self._database.connection() as connection:
            return await connection.fetchrow(text, item.amount, _length(item), *arguments)

    async def stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the oldest hit leaves the window, as `time.time()`, and how many calls still fit."""
        row = await self._database.read_row("rate_limit_window", _key(item, *identifiers), _length(item))
        assert row is not None
        return _stats(item, row["age"], row["hits"])

    async def prune(self) -> int:
        """Delete windows whose hits have all expired, one batch per call; returns the count."""
        return len(await self._database.fetch("prune_rate_limits", _PRUNE_BATCH))


def _key(item: RateLimitItem, *identifiers: str) -> str:
    """The key of a window. The release before knows no merged hits, and must not write into a window that has them."""
    return item.key_for(*identifiers) + "/merged" * _merges(item)


def _merges(item: RateLimitItem) -> bool:
    return item.amount > _MOST_EXACT


def _length(item: RateLimitItem) -> timedelta:
    return timedelta(seconds=item.get_expiry())


def _stats(item: RateLimitItem, age: float, hits: int) -> WindowStats:
    return WindowStats(time.time() - age + item.get_expiry(), item.amount - hits)

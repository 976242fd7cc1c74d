"""Reads one snapshot of the contacts in batches, in a session that nothing else uses meanwhile."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from asyncpg.cursor import Cursor
from asyncpg.transaction import Transaction

from service.failpoints import failpoint
from service.failures import SourceSlow
from service.model import Claim, Extras, Window
from service.postgres.contact_ids import ContactIds, IdType, read_contact_ids
from service.postgres.driver_errors import source_errors
from service.postgres.extras import extra_fragments, read_contacts
from service.postgres.kept_sessions import Session
from service.postgres.read_ahead import read_ahead
from service.postgres.relations import IdCheck
from service.postgres.session import APPLICATION_NAME, LATER
from sql import statement

BATCH_ROWS = 500
"""Rows per encoded batch: encoding one occupies the event loop for 0.25 ms."""
FIRST_ROWS = 16
"""Rows of the first fetch, before the size of a contact is known."""
_FETCH_BYTES = 1024 * 1024
"""Target bytes per fetch, estimated from the rows encoded so far, because contacts can be wide."""
_READ_AHEAD = 2
"""Fetches that are done or in flight while the rows of an earlier one are encoded."""
_CALL_TIMEOUT = timedelta(seconds=10)
_KEPT_TIMEOUT = timedelta(seconds=2)
"""Longest wait for the first response of a reused session: a firewall may have dropped its connection."""
_ROLLBACK_TIMEOUT = timedelta(seconds=2)
_TIMEOUT_SHARE = 0.9
"""Share of the fetch timeout after which a cancelled fetch counts as timed out. The two clocks do not start together."""
_TRIES_WITHOUT_A_ROW = 2
"""Attempts in which the query may return no row in time. The second excludes a cold cache; more only load the database."""
_PLAN_DEPTH = 4
"""Nodes of a plan that are named, from the top."""

Batch = Sequence[asyncpg.Record]
FetchSlot = Callable[[], AbstractAsyncContextManager[int]]
"""Wraps one fetch and yields the most rows it may read."""


class Snapshot:
    """The contacts of one claim in one snapshot."""

    def __init__(self, session: Session, claim: Claim, *, fetch_timeout: timedelta, slack: timedelta) -> None:
        self.session = session
        self.ended = False
        """True after `close` ended the transaction, so that the session can serve another attempt."""
        self._connection = session.connection
        self._claim = claim
        self._fetch_timeout = fetch_timeout
        self._slack = slack
        self._query = read_contacts(())
        self._rows = 0
        self._ids: IdCheck | None = None
        self._fetch_rows = FIRST_ROWS
        self._transaction: Transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
        self._range = (claim.space_id, claim.window.start, claim.window.end)
        self.taken_at: datetime
        """When the snapshot was taken: no contact committed before is missing."""
        self.complete_until: datetime | None
        """No contact created before this time can appear later; None if unknown."""
        self.unknown_because: tuple[str, ...]
        """Why complete_until is None: words of `source_horizon`, empty if it is known."""
        self.rows_estimated: int

    async def begin(self) -> None:
        """Take the snapshot. Raises SourceUnavailable, SourceUnreadable."""
        with source_errors():
            async with asyncio.timeout((_KEPT_TIMEOUT if self.session.reused else _CALL_TIMEOUT).total_seconds()):
                row = await self._connection.fetchrow(statement("source_horizon"), APPLICATION_NAME, self._slack)
            async with asyncio.timeout(_CALL_TIMEOUT.total_seconds()):
                await self._transaction.start()
                self.taken_at = await self._connection.fetchval(statement("snapshot_time"))
                self.rows_estimated = await estimated_rows(self._connection, self._claim.space_id, self._claim.window)
        assert row is not None
        horizon: datetime | None = row["horizon"]
        self.complete_until = None if horizon is None else min(horizon, self._claim.window.end)
        self.unknown_because = tuple(row["unknown_because"])

    async def batches(self, fetch_slot: FetchSlot) -> AsyncGenerator[Batch, None]:
        """The contacts in file order. The next rows are fetched while the consumer works on a batch.

        Each fetch runs inside `fetch_slot()` and reads at most the number of rows that it yields.

        Columns: id (a number or text), email, name, phone, location, and the extras of the claim as JSON text. Raises
        SourceData also for an id that is null or repeated.
        """
        with source_errors(self._place):
            async with aclosing(read_ahead(self._fetches(fetch_slot), _READ_AHEAD)) as fetched:
                async for rows in fetched:
                    await failpoint("batch_read")
                    if self._ids is not None:
                        self._ids.check(rows)
                    for start in range(0, len(rows), BATCH_ROWS):
                        yield rows[start : start + BATCH_ROWS]

    async def _fetches(self, fetch_slot: FetchSlot) -> AsyncGenerator[Batch, None]:
        cursor = await self._open_cursor()
        timeout = self._fetch_timeout.total_seconds()
        while True:
            async with fetch_slot() as most_rows:
                started = time.monotonic()
                try:
                    rows = await cursor.fetch(min(self._fetch_rows, most_rows), timeout=timeout + LATER.total_seconds())
                except (TimeoutError, asyncpg.QueryCanceledError) as error:
                    if time.monotonic() - started < timeout * _TIMEOUT_SHARE:  # an operator cancelled the query
                        raise
                    raise self._slow() from error
            if not rows:
                return
            self._rows += len(rows)
            yield rows

    def _slow(self) -> SourceSlow:
        final = self._rows == 0 and self._claim.attempt >= _TRIES_WITHOUT_A_ROW
        waited = f"the query returned no row within {self._fetch_timeout.total_seconds():g} s (FETCH_TIMEOUT_SECONDS)"
        return SourceSlow(detail=f"{self._place()}: {waited}", permanent=final)

    def _place(self) -> str:
        extras = "".join(f", {extra}" for extra in self._claim.extras)
        return f"contacts database, reading contacts{extras} after {self._rows} rows"

    async def explain(self, connection: asyncpg.Connection) -> str:
        """The top nodes of the query's plan, outermost first. The query is planned, not run."""
        plan = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {self._query}", *self._range))
        return top_nodes(plan[0]["Plan"])

    def pace(self, rows: int, size: int) -> None:
        """Adjust the next fetches to about 1 MiB, given that the lines of `rows` contacts took `size` bytes."""
        self._fetch_rows = max(1, min(2 * self._fetch_rows, _FETCH_BYTES * rows // max(size, 1)))

    async def close(self) -> None:
        """End the snapshot early, because it delays the vacuum of every table. May be called twice.

        If a fetch is in flight, the session ends too.
        """
        if self.ended or self._connection.is_closed():
            return
        try:
            async with asyncio.timeout(_ROLLBACK_TIMEOUT.total_seconds()):
                await self._transaction.rollback()
            self.ended = True
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError):
            self.terminate()

    def terminate(self) -> None:
        """End the session without asking the server."""
        self._connection.terminate()

    async def _open_cursor(self) -> "Cursor[Any]":
        self._query, ids = await export_query(self._connection, self._claim.extras)
        self._ids = None if ids.unique else IdCheck(named=ids.type is not IdType.TEXT)
        return await self._connection.cursor(self._query, *self._range)


async def export_query(connection: asyncpg.Connection, extras: Extras) -> tuple[str, ContactIds]:
    """The statement that an export with these extras runs in this database, and what the database says about its ids.

    Raises SourceUnreadable, the driver's errors, TimeoutError.
    """
    ids = await read_contact_ids(connection)
    return ids.type.fit(read_contacts(await extra_fragments(connection, extras))), ids


async def estimated_rows(connection: asyncpg.Connection, space_id: int, window: Window) -> int:
    """The planner's estimate of the rows of an export. Raises the driver's errors."""
    plan = json.loads(await connection.fetchval(statement("estimate_contacts"), space_id, window.start, window.end))
    return int(plan[0]["Plan"]["Plan Rows"])


def top_nodes(plan: Mapping[str, Any]) -> str:
    """The first nodes of a plan in words, outermost first."""
    node: Mapping[str, Any] | None = plan
    names: list[str] = []
    while node is not None and len(names) < _PLAN_DEPTH:
        relation = node.get("Relation Name")
        names.append(f"{node['Node Type']} on {relation}" if relation else node["Node Type"])
        node = next(iter(node.get("Plans", ())), None)
    return ", ".join(names)

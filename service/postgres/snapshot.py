"""Reads one snapshot of the contacts in batches, on a dedicated connection."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Union

import asyncpg
from asyncpg.cursor import Cursor
from asyncpg.pool import PoolConnectionProxy
from asyncpg.transaction import Transaction

from service.failpoints import failpoint
from service.model import Claim, Extra, Extras
from service.postgres.driver_errors import source_errors
from service.postgres.read_ahead import read_ahead
from service.postgres.relations import check_relations
from sql import fragment, statement

APPLICATION_NAME = "contact-exports export"
"""Marks our snapshots in pg_stat_activity, to distinguish them from transactions that write."""

BATCH_ROWS = 500
"""Rows per encoded batch: encoding one occupies the event loop for 0.25 ms."""
FIRST_ROWS = 16
"""Rows of the first fetch, before the size of a contact is known."""
_FETCH_BYTES = 1024 * 1024
"""Target bytes per fetch, estimated from the rows encoded so far, because contacts can be wide."""
_READ_AHEAD = 2
"""Fetches that are done or in flight while the rows of an earlier one are encoded."""
_CALL_TIMEOUT = 10.0

Batch = Sequence[asyncpg.Record]
Connection = Union[asyncpg.Connection, "PoolConnectionProxy[asyncpg.Record]"]
FetchSlot = Callable[[], AbstractAsyncContextManager[int]]
"""Wraps one fetch and yields the most rows it may read."""


@dataclass(frozen=True, slots=True)
class ContactSource:
    """The database of the contacts. `fetch_timeout` limits each read on client and server, in seconds."""

    dsn: str
    fetch_timeout: float

    async def check(self) -> None:
        """Raises SchemaMismatch if the three relations do not match the contract, SourceUnavailable."""
        connection = await self._connect()
        try:
            with source_errors():
                async with asyncio.timeout(_CALL_TIMEOUT):
                    await check_relations(connection)
        finally:
            connection.terminate()

    @asynccontextmanager
    async def snapshot(self, claim: Claim) -> AsyncIterator["Snapshot"]:
        """One REPEATABLE READ, READ ONLY transaction for one attempt. Raises SourceUnavailable, SourceData.

        The connection is terminated, because that needs no response from the server. `async with connection.transaction()`
        would hang in ROLLBACK on a half-open connection.
        """
        connection = await self._connect()
        try:
            snapshot = Snapshot(connection, claim, self.fetch_timeout)
            await snapshot.begin()
            yield snapshot
        finally:
            connection.terminate()

    async def _connect(self) -> asyncpg.Connection:
        milliseconds = str(int(self.fetch_timeout * 1000))
        with source_errors():
            return await asyncpg.connect(
                self.dsn,
                timeout=_CALL_TIMEOUT,
                command_timeout=self.fetch_timeout,
                statement_cache_size=0,
                server_settings={
                    "application_name": APPLICATION_NAME,
                    "default_transaction_read_only": "on",
                    "statement_timeout": milliseconds,
                    "idle_in_transaction_session_timeout": "600s",
                    "jit": "off",
                    # The index returns rows in file order: a sort would delay the first row, and a parallel plan cannot be
                    # suspended between two fetches.
                    "enable_sort": "off",
                    "max_parallel_workers_per_gather": "0",
                    # Otherwise a server that is busy with a statement notices a closed socket only after the statement.
                    "client_connection_check_interval": "2s",
                    # Only unacknowledged bytes distinguish a stopped process from a slow one.
                    "tcp_keepalives_idle": "30",
                    "tcp_keepalives_interval": "10",
                    "tcp_keepalives_count": "3",
                    "tcp_user_timeout": "60000",
                },
            )


class Snapshot:
    """The contacts of one claim in one snapshot."""

    def __init__(self, connection: asyncpg.Connection, claim: Claim, fetch_timeout: float) -> None:
        self._connection = connection
        self._claim = claim
        self._fetch_timeout = fetch_timeout
        self._fetch_rows = FIRST_ROWS
        self._transaction: Transaction = connection.transaction(isolation="repeatable_read", readonly=True)
        self._range = (claim.space_id, claim.window.start, claim.window.end)
        self.taken_at: datetime
        """When the snapshot was taken: no contact committed before is missing."""
        self.complete_until: datetime | None
        """No contact created before this time can appear later; None if unknown."""
        self.rows_estimated: int

    async def begin(self) -> None:
        """Take the snapshot."""
        with source_errors():
            async with asyncio.timeout(_CALL_TIMEOUT):
                horizon = await self._connection.fetchval(statement("source_horizon"), APPLICATION_NAME)
                await self._transaction.start()
                self.taken_at = await self._connection.fetchval(statement("snapshot_time"))
                plan = json.loads(await self._connection.fetchval(statement("estimate_contacts"), *self._range))
        self.complete_until = None if horizon is None else min(horizon, self._claim.window.end)
        self.rows_estimated = int(plan[0]["Plan"]["Plan Rows"])

    async def batches(self, fetch_slot: FetchSlot) -> AsyncGenerator[Batch, None]:
        """The contacts in file order. The next rows are fetched while the consumer works on a batch.

        Each fetch runs inside `fetch_slot()` and reads at most the number of rows that it yields.

        Columns: id, email, name, phone, location, and the extras of the claim as JSON text.
        """
        with source_errors():
            async with aclosing(read_ahead(self._fetches(fetch_slot), _READ_AHEAD)) as fetched:
                async for rows in fetched:
                    await failpoint("batch_read")
                    for start in range(0, len(rows), BATCH_ROWS):
                        yield rows[start : start + BATCH_ROWS]

    async def _fetches(self, fetch_slot: FetchSlot) -> AsyncGenerator[Batch, None]:
        cursor = await self._open_cursor()
        while True:
            async with fetch_slot() as most_rows:
                rows = await cursor.fetch(min(self._fetch_rows, most_rows), timeout=self._fetch_timeout)
            if not rows:
                return
            yield rows

    def pace(self, rows: int, size: int) -> None:
        """Adjust the next fetches to about 1 MiB, given that the lines of `rows` contacts took `size` bytes."""
        self._fetch_rows = max(1, min(2 * self._fetch_rows, _FETCH_BYTES * rows // max(size, 1)))

    def close(self) -> None:
        """End the snapshot early, because it delays the vacuum of every table. May be called twice."""
        self._connection.terminate()

    async def _open_cursor(self) -> "Cursor[Any]":
        fragments = await extra_fragments(self._connection, self._claim.extras)
        return await self._connection.cursor(read_contacts(fragments), *self._range)


async def extra_fragments(connection: Connection, extras: Extras) -> list[str]:
    """The names of the fragments that select these extras from the relations of this database."""
    return [await _fragment(connection, extra) for extra in extras]


async def _fragment(connection: Connection, extra: Extra) -> str:
    name = f"extra_{extra}"
    match extra:
        case Extra.EMAILS:
            unique = await connection.fetchval(statement("emails_are_unique"), timeout=_CALL_TIMEOUT)
            return f"{name}_unique" if unique else name
        case Extra.CUSTOM_FIELDS:
            exist = await connection.fetchval(statement("custom_fields_exist"), timeout=_CALL_TIMEOUT)
            return name if exist else f"{name}_absent"
        case Extra.COMET_TOKENS:
            return name


def read_contacts(fragments: Iterable[str]) -> str:
    """The statement that reads the contacts with these extras, given as names of SQL fragments."""
    return with_extras(statement("read_contacts"), fragments)


def with_extras(text: str, fragments: Iterable[str]) -> str:
    """A statement that also selects these fragments, in place of its marker `/* extras */`."""
    return text.replace("/* extras */", "".join(f",\n{fragment(name)}" for name in fragments))

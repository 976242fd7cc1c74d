"""Snapshots of the contacts like those of an attempt, and their lines."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg

from service.exports.priority import FETCH_ROWS
from service.exports.stream.lines import encoder
from service.model import Claim, Window
from service.postgres.contact_source import ContactSource
from service.postgres.session import APPLICATION_NAME
from service.postgres.snapshot import Batch, Snapshot
from tests.support.contacts import chosen_extras
from tests.support.waiting import until

SPACE = 7
START = datetime(2024, 3, 1, tzinfo=UTC)
WINDOW = Window(START, START + timedelta(days=1))
FETCH_SECONDS = 600.0
"""Long enough that no test passes because of a server timeout."""
_LINE_BYTES = 100


def at_once(most_rows: int = FETCH_ROWS) -> AbstractAsyncContextManager[int]:
    """A fetch slot that is always free."""
    return nullcontext(most_rows)


def claim_on(
    *,
    space_id: int = SPACE,
    window: Window = WINDOW,
    tokens: bool = False,
    emails: bool = False,
    custom_fields: bool = False,
) -> Claim:
    """A claim without a row in the job table."""
    return Claim(
        claim_id=uuid4(),
        export_id=1,
        space_id=space_id,
        attempt=1,
        alone=False,
        object_name="an object",
        window=window,
        extras=chosen_extras(tokens=tokens, emails=emails, custom_fields=custom_fields),
    )


def source(url: str, *, fetch_timeout: float = FETCH_SECONDS) -> ContactSource:
    """The contacts of this database."""
    return ContactSource(url, timedelta(seconds=fetch_timeout))


@asynccontextmanager
async def batches_of(url: str, claim: Claim) -> AsyncIterator[AsyncIterator[Batch]]:
    """The batches of a new snapshot, paced for contacts of ordinary size; closed at the end."""

    async def paced(snapshot: Snapshot) -> AsyncGenerator[Batch, None]:
        async with aclosing(snapshot.batches(at_once)) as batches:
            async for batch in batches:
                snapshot.pace(len(batch), _LINE_BYTES * len(batch))
                yield batch

    async with source(url).snapshot(claim) as snapshot, aclosing(paced(snapshot)) as batches:
        yield batches


async def lines(url: str, claim: Claim) -> list[dict[str, Any]]:
    """The lines of an export, parsed."""
    async with batches_of(url, claim) as batches:
        return parsed(claim, [batch async for batch in batches])


def parsed(claim: Claim, batches: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """The encoded lines of these batches."""
    encode = encoder(claim.extras)
    return [json.loads(line) for batch in batches for line in encode(batch).split(b"\n")[:-1]]


async def taken(url: str, claim: Claim | None = None) -> Snapshot:
    """A closed snapshot; its attributes remain."""
    async with source(url).snapshot(claim or claim_on()) as snapshot:
        return snapshot


async def open_sources(sql: asyncpg.Connection) -> int:
    """The number of snapshot connections to this database."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
    return int(await sql.fetchval(query, APPLICATION_NAME))


async def until_closed(sql: asyncpg.Connection) -> None:
    """Return when no snapshot connection is left."""

    async def closed() -> bool:
        return await open_sources(sql) == 0

    await until(closed)

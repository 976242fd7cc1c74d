"""Wait for a fact (a row, a log line, a condition), never for a number of seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from tests.support.program import Program

T = TypeVar("T")
_DEADLINE = 60.0
"""Seconds. Long, because other programs may keep the machine busy; a wait ends as soon as the fact is there."""


async def until(condition: Callable[[], Awaitable[T]]) -> T:
    """Poll until the result of `condition` is true and return the result. Raises TimeoutError after 60 seconds."""
    async with asyncio.timeout(_DEADLINE):
        while not (result := await condition()):
            await asyncio.sleep(0.02)
    return result


async def until_true(condition: Callable[[], object]) -> None:
    """Poll until `condition` returns a true value. Raises TimeoutError after 60 seconds."""

    async def check() -> bool:
        return bool(condition())

    await until(check)


async def until_logged(program: Program, event: str, detail: str = "", **fields: str) -> None:
    """Wait for a log line of this event that has these fields and contains `detail` in its detail."""
    await until_true(
        lambda: any(detail in line.get("detail", "") and fields.items() <= line.items() for line in program.events(event))
    )


async def until_row(connection: asyncpg.Connection, query: str, *arguments: object) -> asyncpg.Record:
    """Poll until the query returns a row and return its first row."""
    row = await until(lambda: connection.fetchrow(query, *arguments))
    assert row is not None
    return row


async def until_ended(connection: asyncpg.Connection, export_id: int) -> asyncpg.Record:
    """Wait until the export has ended and return its row."""
    return await until_row(
        connection, "SELECT * FROM export_jobs WHERE id = $1 AND status NOT IN ('queued', 'processing')", export_id
    )


async def until_cleaned(connection: asyncpg.Connection) -> None:
    """Wait until the leftovers of all attempts are removed.

    Moves the end of ended attempts into the past: their last storage calls have returned, so the grace period (two leases)
    need not pass.
    """

    async def cleaned() -> bool:
        await connection.execute(
            "UPDATE export_attempts SET ended_at = ended_at - interval '1 hour' WHERE cleaned_at IS NULL"
        )
        return not await connection.fetchval("SELECT count(*) FROM export_attempts WHERE cleaned_at IS NULL")

    await until(cleaned)

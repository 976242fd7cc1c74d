"""Waiting for facts: a row that says so, never a number of seconds."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

T = TypeVar("T")
_SECONDS = 30.0


async def until(fact: Callable[[], Awaitable[T]]) -> T:
    """Ask again and again until the answer is true, and return it; fails after half a minute."""
    async with asyncio.timeout(_SECONDS):
        while not (answer := await fact()):
            await asyncio.sleep(0.02)
    return answer


async def until_row(connection: asyncpg.Connection, query: str, *arguments: object) -> asyncpg.Record:
    """The first row of a query, once there is one."""
    row = await until(lambda: connection.fetchrow(query, *arguments))
    assert row is not None
    return row


async def until_ended(connection: asyncpg.Connection, export_id: int) -> asyncpg.Record:
    """The row of an export, once it has ended."""
    return await until_row(
        connection, "SELECT * FROM export_jobs WHERE id = $1 AND status NOT IN ('queued', 'processing')", export_id
    )

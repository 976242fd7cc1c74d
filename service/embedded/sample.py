"""Sample contacts for our own three contact tables, made by the database itself."""

from datetime import datetime

import asyncpg

from sql import statement


async def create_contacts(
    connection: asyncpg.Connection,
    *,
    space_id: int,
    count: int,
    first_created_at: datetime,
    last_created_at: datetime,
    seed: int = 0,
) -> None:
    """Add `count` profiles to a Space, created from `first_created_at` to `last_created_at` (both with a timezone).

    Names in many scripts, some values unknown, 1.6 addresses (up to 6) and 3 comet tokens (up to 12) each;
    every fiftieth profile is merged away. The rows follow from their ids and the `seed` alone, and appear all at
    once. A million take 40 s. `connection` must not be in a transaction: the tables are vacuumed at the end.
    Raises ValueError for less than one profile or a range that ends before it starts, and asyncpg.PostgresError
    where the three relations are not tables of ours.
    """
    if count < 1 or first_created_at > last_created_at:
        raise ValueError("at least one contact, and a first creation that is not after the last")
    async with connection.transaction():
        await connection.execute(statement("sample_lock"))
        first_id = await connection.fetchval(statement("sample_first_id"))
        await connection.execute(
            statement("sample_contacts"), first_id, count, space_id, first_created_at, last_created_at, seed
        )
        for name in ("sample_emails", "sample_tokens"):
            await connection.execute(statement(name), first_id, count, last_created_at, seed)
        await connection.execute(statement("sample_last_id"), first_id + count - 1)
    await connection.execute(statement("sample_vacuum"))

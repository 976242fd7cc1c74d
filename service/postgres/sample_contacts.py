"""Creates sample contacts in the contact tables of the migrations. The database generates them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import asyncpg

from service.errors import ServiceError
from service.postgres.addresses import Dsn
from service.postgres.driver_errors import unavailable
from service.postgres.single_connection import single_connection
from sql import statement


class SampleContacts:
    """Sample contacts on a connection that is not in a transaction: the tables are vacuumed at the end."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def create(
        self, *, space_id: int, count: int, first_created_at: datetime, last_created_at: datetime, seed: int = 0
    ) -> None:
        """Add `count` contacts to a Space, created from `first_created_at` to `last_created_at` (both with a timezone).

        Names are in many scripts, some values are missing, and each contact has 1.6 addresses (up to 6) and 3 comet tokens
        (up to 12) on average. Every fiftieth contact is merged away. The same ids and `seed` create the same rows. One
        transaction; a million contacts take 40 s.
        Raises ValueError if `count` is below 1 or the range ends before it starts; DatabaseUnavailable; ServiceError if the
        three relations are not the tables of the migrations.
        """
        if count < 1 or first_created_at > last_created_at:
            raise ValueError("count must be at least 1, and last_created_at must not be before first_created_at")
        try:
            await self._create(space_id, count, first_created_at, last_created_at, seed)
        except asyncpg.PostgresError as error:
            if unavailable(error):
                raise
            raise ServiceError("Sample contacts need the tables created by the migrations.", detail=error.message) from None

    async def _create(self, space_id: int, count: int, first: datetime, last: datetime, seed: int) -> None:
        connection = self._connection
        async with connection.transaction():
            await connection.execute(statement("sample_lock"))
            first_id = await connection.fetchval(statement("sample_first_id"))
            await connection.execute(statement("sample_contacts"), first_id, count, space_id, first, last, seed)
            for name in ("sample_emails", "sample_tokens"):
                await connection.execute(statement(name), first_id, count, last, seed)
            await connection.execute(statement("sample_last_id"), first_id + count - 1)
        await connection.execute(statement("sample_vacuum"))


@asynccontextmanager
async def open_sample_contacts(dsn: Dsn) -> AsyncIterator[SampleContacts]:
    """Connect to the database of the contacts, without a time limit for statements. Raises DatabaseUnavailable."""
    async with single_connection(dsn, command_timeout=None) as connection:
        yield SampleContacts(connection)

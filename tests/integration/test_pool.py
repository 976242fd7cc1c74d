"""Connections that break: a response that arrived counts, otherwise the database is unavailable."""

import asyncio
import threading
from contextlib import suppress

import asyncpg

from service.errors import DatabaseUnavailable
from service.postgres.pool import Database


def end_session(url: str, pid: int) -> None:
    """Terminate a server session from a thread and return when it has ended; the event loop does not notice meanwhile."""

    async def end() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("SELECT pg_terminate_backend($1)", pid)
            while await connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid):
                await asyncio.sleep(0.01)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(end()))
    thread.start()
    thread.join()


async def test_a_statement_succeeds_even_if_its_connection_cannot_be_released(database_url: str) -> None:
    async with Database(database_url, application_name="tests", size=1) as database:
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
            end_session(database_url, connection.get_server_pid())
        with suppress(DatabaseUnavailable):  # the next to use it may be the first to learn of its end
            await database.fetch_row("ping")
        assert await database.fetch_row("ping") is not None

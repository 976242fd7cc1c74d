"""A pool: who shares a connection, who waits for one, and what happens to those that break, are free or are cancelled."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest

from service.errors import DatabaseUnavailable
from service.postgres.pool import Database
from tests.support.jobs import end_session
from tests.support.waiting import until, until_true

NAME = "the tested pool"


def pool(url: str, *, size: int, timeout: timedelta = timedelta(seconds=30)) -> Database:
    """A pool whose sessions have the name NAME."""
    return Database(url, application_name=NAME, size=size, timeout=timeout)


async def session_of(database: Database) -> int:
    """The process id of the session that runs the next statement."""
    async with database.connection() as connection:
        return connection.get_server_pid()


async def sessions(url: str) -> set[int]:
    """The process ids of the sessions of the tested pool."""
    connection = await asyncpg.connect(url)
    try:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
        return {row["pid"] for row in await connection.fetch(query, NAME)}
    finally:
        await connection.close()


async def test_statements_at_once_have_sessions_of_their_own_which_later_statements_use(database_url: str) -> None:
    async with pool(database_url, size=2) as database:
        async with database.connection() as one, database.connection() as two:
            both = {one.get_server_pid(), two.get_server_pid()}
        assert len(both) == 2
        for _ in range(5):
            assert await session_of(database) in both
        assert await sessions(database_url) == both


async def test_a_statement_waits_for_a_connection_and_gets_the_first_that_is_given_back(database_url: str) -> None:
    async with pool(database_url, size=1) as database:
        for _ in range(3):
            async with database.connection() as connection:
                waiting = [asyncio.create_task(session_of(database)) for _ in range(3)]
                await asyncio.sleep(0)  # they begin to wait
                session = connection.get_server_pid()
            assert await asyncio.gather(*waiting) == [session] * 3


async def test_a_wait_for_a_connection_ends_as_unavailable(database_url: str) -> None:
    async with pool(database_url, size=1, timeout=timedelta(seconds=0.5)) as database, database.connection():
        with pytest.raises(DatabaseUnavailable, match="unavailable"):
            await database.fetch_row("ping")


async def test_connections_that_are_free_for_long_are_closed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.postgres.pool._IDLE_TIME", timedelta(seconds=0.1))
    async with pool(database_url, size=3) as database:
        async with database.connection(), database.connection():
            pass
        await until(lambda: no_sessions(database_url))
        assert await database.fetch_row("ping") is not None


async def no_sessions(url: str) -> bool:
    """Whether the tested pool has no session."""
    return not await sessions(url)


async def test_a_connection_that_breaks_while_it_is_free_is_not_used(database_url: str) -> None:
    async with pool(database_url, size=1) as database:
        async with database.connection() as connection:
            broken = connection.get_server_pid()
            driver_connection = cast(Any, connection)._con
        end_session(database_url, broken)
        await until_true(driver_connection.is_closed)
        assert await session_of(database) != broken


async def test_a_rejected_statement_leaves_the_connection_and_a_cancelled_one_ends_it(database_url: str) -> None:
    async with pool(database_url, size=1) as database:
        session = await session_of(database)
        with pytest.raises(asyncpg.UndefinedColumnError):
            async with database.connection() as connection:
                await connection.execute("SELECT nothing")
        assert await session_of(database) == session
        with pytest.raises(DatabaseUnavailable):
            async with database.connection() as connection, asyncio.timeout(0.1):
                await connection.execute("SELECT pg_sleep(60)")
        assert await session_of(database) != session


async def test_the_end_closes_connections_that_are_free_and_those_given_back_meanwhile(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.postgres.pool._CLOSE_TIMEOUT", timedelta(minutes=4))
    database = pool(database_url, size=2)
    await database.__aenter__()
    async with database.connection():
        await database.fetch_row("ping")
        end = asyncio.create_task(database.__aexit__(None, None, None))
        await until_true(database._pool.is_closing)
    async with asyncio.timeout(60):
        await end
    assert await no_sessions(database_url)


async def test_a_statement_succeeds_even_if_its_connection_cannot_be_released(database_url: str) -> None:
    async with Database(database_url, application_name="tests", size=1) as database:
        async with database.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
            end_session(database_url, connection.get_server_pid())
        with suppress(DatabaseUnavailable):  # the next to use it may be the first to learn of its end
            await database.fetch_row("ping")
        assert await database.fetch_row("ping") is not None

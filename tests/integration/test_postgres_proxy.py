"""The proxy of the fault tests changes the connections it is told to, and no others."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql import statement
from tests.support.jobs import connect
from tests.support.postgres_proxy import Fault, Mode, PostgresProxy, postgres_proxy
from tests.support.waiting import until_row

LIST_SPACES = statement("list_spaces")
INSERT_SPACE = statement("insert_space")


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[PostgresProxy]:
    async with postgres_proxy(database_url) as proxy:
        yield proxy


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    async with connect(database_url) as connection:
        yield connection


async def client(proxy: PostgresProxy, name: str) -> asyncpg.Connection:
    return await asyncio.wait_for(asyncpg.connect(proxy.url, server_settings={"application_name": name}), 30)


async def test_connections_are_forwarded_and_known_by_name_and_backend(
    proxy: PostgresProxy, sql: asyncpg.Connection
) -> None:
    one, other = await client(proxy, "one"), await client(proxy, "other")
    assert await one.fetch(LIST_SPACES) == await other.fetch(LIST_SPACES) == []
    assert [each.backend for each in proxy.connections("one")] == [one.get_server_pid()]
    await one.close()
    await until_row(sql, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'one')")
    assert [each.application_name for each in proxy.connections()] == ["other"]
    other.terminate()


async def test_a_frozen_connection_continues_without_loss(proxy: PostgresProxy) -> None:
    frozen, other = await client(proxy, "frozen"), await client(proxy, "other")
    proxy.set_mode(Mode.FREEZE, "frozen")
    response = asyncio.create_task(frozen.fetchval("SELECT 1"))
    assert await other.fetchval("SELECT 2") == 2
    assert not response.done()
    proxy.set_mode(Mode.PASS, "frozen")
    assert await response == 1
    for each in (frozen, other):
        each.terminate()


async def test_neither_side_of_a_blackholed_connection_learns_that_the_other_has_closed(
    proxy: PostgresProxy, sql: asyncpg.Connection
) -> None:
    lost = await client(proxy, "lost")
    (link,) = proxy.connections("lost")
    link.set_mode(Mode.BLACKHOLE)
    with pytest.raises(TimeoutError):
        await lost.fetchval("SELECT 1", timeout=0.1)
    lost.terminate()
    following = await client(proxy, "lost")
    assert await following.fetchval("SELECT 1") == 1
    assert await sql.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lost'") == 2
    following.terminate()


async def test_a_reset_closes_both_sides_of_current_and_future_connections(
    proxy: PostgresProxy, sql: asyncpg.Connection
) -> None:
    victim = await client(proxy, "victim")
    proxy.set_mode(Mode.RESET, "victim")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await victim.fetchval("SELECT 1")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await client(proxy, "victim")
    await until_row(sql, "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'victim')")


async def test_a_delayed_round_trip_takes_at_least_the_delay_longer(proxy: PostgresProxy) -> None:
    proxy.delay = 0.05
    proxy.set_mode(Mode.DELAY)
    slow = await client(proxy, "slow")
    began = asyncio.get_running_loop().time()
    assert await slow.fetchval("SELECT 1") == 1
    assert asyncio.get_running_loop().time() - began > proxy.delay
    slow.terminate()


@pytest.mark.parametrize(("fault", "committed"), [(Fault.LOSE_REQUEST, 0), (Fault.LOSE_RESPONSE, 1)])
async def test_a_statement_is_committed_if_its_response_is_lost_and_not_if_its_request_is_lost(
    proxy: PostgresProxy, sql: asyncpg.Connection, fault: Fault, committed: int
) -> None:
    writer = await client(proxy, "writer")
    proxy.next(INSERT_SPACE, fault)
    await writer.fetch(LIST_SPACES)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await writer.fetch(INSERT_SPACE, "a space", "UTC")
    await proxy.until_injected(INSERT_SPACE)
    assert await sql.fetchval("SELECT count(*) FROM spaces") == committed


async def test_a_held_response_arrives_when_the_connection_passes_again(proxy: PostgresProxy) -> None:
    reader = await client(proxy, "reader")
    proxy.next("SELECT 1", Fault.HOLD_RESPONSE)
    response = asyncio.create_task(reader.fetchval("SELECT 1"))
    await proxy.until_injected("SELECT 1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(response), 0.1)
    proxy.set_mode(Mode.PASS, "reader")
    assert await response == 1
    reader.terminate()


async def test_session_parameters_are_replaced_if_the_client_sets_them(proxy: PostgresProxy) -> None:
    proxy.startup = {"lock_timeout": "5s", "jit": "off"}
    connection = await asyncpg.connect(proxy.url, server_settings={"lock_timeout": "1s"}, timeout=30)
    assert await connection.fetchval("SHOW lock_timeout") == "5s"
    assert await connection.fetchval("SELECT source FROM pg_settings WHERE name = 'jit'") != "client"
    connection.terminate()

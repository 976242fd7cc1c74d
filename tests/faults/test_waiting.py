"""Clients that wait for an export while something else happens."""

import asyncio
import itertools
import time
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.support.calls import EXPORTS, create, create_with_tokens
from tests.support.contacts import Tenant, add_contacts, tenant
from tests.support.export_checks import blocked_reads, unexpected_errors, until_reading
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_true

_SECONDS = 20.0
"""Far less than the 30 seconds of a wait that nothing ends."""


async def wait_for(program: Program, space: Tenant, export_id: int) -> tuple[dict[str, Any], bool, float]:
    """Wait for the end of an export; return the body, whether the wait was applied, and when the response came."""
    headers = {**space.headers, "Prefer": "wait=30"}
    async with aiohttp.request("GET", f"{program.address}{EXPORTS}/{export_id}", headers=headers) as response:
        assert response.status == 200
        return await response.json(), "Preference-Applied" in response.headers, time.time()


async def until_waited_for(program: Program, space: Tenant, export_id: int, count: int) -> "list[asyncio.Task[Any]]":
    """Start so many waiting calls, the first status calls of this Space; return when the program has let all of them in."""
    calls = [asyncio.create_task(wait_for(program, space, export_id)) for _ in range(count)]
    await until_let_in(program, space, export_id, count)
    assert not any(call.done() for call in calls)
    return calls


async def until_let_in(program: Program, space: Tenant, export_id: int, count: int) -> None:
    """Return when so many status calls of this Space have passed the rate limit, the last check before they wait."""
    async with asyncio.timeout(60), aiohttp.ClientSession(headers=space.headers) as session:
        for probes in itertools.count(1):
            async with session.get(f"{program.address}{EXPORTS}/{export_id}") as response:
                limit, left = (int(response.headers[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining"))
            if limit - left >= probes + count:
                return
            await asyncio.sleep(0.05)


async def test_fifty_clients_that_wait_for_one_export_all_get_its_end_quickly(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 100)
    async with running({"DATABASE_URL": database_url, **files.settings}) as program:
        async with blocked_reads(database_url):
            export_id = await create_with_tokens(program, space)
            await until_reading(connection)
            calls = await until_waited_for(program, space, export_id, 50)
        row = await until_ended(connection, export_id)
        results = await asyncio.wait_for(asyncio.gather(*calls), _SECONDS)
    assert {(body["status"], applied) for body, applied, _ in results} == {("completed", True)}
    assert max(at for _, _, at in results) - row["finished_at"].timestamp() < 5
    assert not unexpected_errors(program)


async def test_a_client_hears_of_an_export_that_another_process_runs(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 100)
    settings = {"DATABASE_URL": database_url, **files.settings}
    async with running(settings) as worker, running(settings | {"EXPORT_SLOTS": "0"}) as asked:
        async with blocked_reads(database_url):
            export_id = await create_with_tokens(worker, space)
            await until_reading(connection)
            calls = await until_waited_for(asked, space, export_id, 5)
        row = await until_ended(connection, export_id)
        results = await asyncio.wait_for(asyncio.gather(*calls), _SECONDS)
        assert not asked.events("export_completed")
    assert {(body["status"], applied) for body, applied, _ in results} == {("completed", True)}
    assert max(at for _, _, at in results) - row["finished_at"].timestamp() < 5  # about 2 s on an idle machine


async def test_a_client_hears_of_an_export_that_an_operator_cancels_by_sql(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings, "EXPORT_SLOTS": "0"}) as program:
        export_id = await create(program, space)
        calls = await until_waited_for(program, space, export_id, 1)
        await connection.execute("SELECT cancel_export($1)", export_id)
        ((body, applied, _),) = await asyncio.wait_for(asyncio.gather(*calls), _SECONDS)
    assert (body["status"], applied) == ("cancelled", True)


async def test_clients_that_wait_are_answered_at_once_when_the_process_ends(
    database_url: str, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings, "GRACE_SECONDS": "60"}) as program:
        async with blocked_reads(database_url):
            export_id = await create_with_tokens(program, space)
            await until_logged(program, "export_claimed")
            calls = await until_waited_for(program, space, export_id, 5)
            ending = asyncio.create_task(program.end())
            # The export still runs: the process waits for it, and not for its clients.
            results = await asyncio.wait_for(asyncio.gather(*calls), _SECONDS)
            assert not ending.done()
        assert await ending == 0
    assert {(body["status"], applied) for body, applied, _ in results} == {("processing", False)}
    assert not unexpected_errors(program)


async def test_a_process_without_exports_ends_at_once_although_clients_wait(
    database_url: str, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings, "EXPORT_SLOTS": "0"}) as program:
        export_id = await create(program, space)
        calls = await until_waited_for(program, space, export_id, 5)
        assert await asyncio.wait_for(program.end(), _SECONDS) == 0
        results = await asyncio.gather(*calls)
    assert {(body["status"], applied) for body, applied, _ in results} == {("queued", False)}
    assert not unexpected_errors(program)


async def test_clients_that_disconnect_while_they_wait_leave_nothing_behind(
    database_url: str, space: Tenant, files: StoreUnderTest
) -> None:
    async with running({"DATABASE_URL": database_url, **files.settings, "EXPORT_SLOTS": "0"}) as program:
        export_id = await create(program, space)
        head = (
            f"GET {EXPORTS}/{export_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {space.key}\r\nPrefer: wait=30\r\n\r\n"
        )
        address = urlsplit(program.address)
        writers = []
        for _ in range(20):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(head.encode())
            writers.append(writer)
        await until_let_in(program, space, export_id, len(writers))
        logged = len(program.events("request"))
        started = time.monotonic()
        for number, writer in enumerate(writers):
            writer.transport.abort() if number % 2 else writer.close()
        # Each request ends, with a line in the log, at the next poll and not after its wait.
        await until_true(lambda: len(program.events("request")) == logged + len(writers))
        assert time.monotonic() - started < _SECONDS
        assert await program.end() == 0
        assert not unexpected_errors(program)


async def test_clients_that_wait_while_the_database_is_down_get_a_503_or_the_end_once_it_is_back(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    await migrate(own_postgres.dsn())
    space = await tenant(own_postgres.dsn())
    settings = {"DATABASE_URL": own_postgres.dsn(), **files.settings, "EXPORT_SLOTS": "0"}
    async with running(settings) as program, aiohttp.ClientSession(headers=space.headers) as session:
        export_id = await create(program, space)
        calls = await until_waited_for(program, space, export_id, 3)
        briefly = asyncio.create_task(session.get(f"{program.address}{EXPORTS}/{export_id}", headers={"Prefer": "wait=3"}))
        await until_let_in(program, space, export_id, 4)
        await asyncio.to_thread(own_postgres.stop, "immediate")
        response = await asyncio.wait_for(briefly, _SECONDS)
        assert (response.status, int(response.headers["Retry-After"]) > 0) == (503, True)
        assert not any(call.done() for call in calls)
        await asyncio.to_thread(own_postgres.start)
        await program.ready()
        connection = await asyncpg.connect(own_postgres.dsn())
        await connection.execute("SELECT cancel_export($1)", export_id)
        await connection.close()
        results = await asyncio.wait_for(asyncio.gather(*calls), _SECONDS)
        assert {(body["status"], applied) for body, applied, _ in results} == {("cancelled", True)}
        assert await program.end() == 0
    assert not unexpected_errors(program)

"""The operator's port while the database is down or hangs, and while its clients hang."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest

from service.admin.app import CONNECTIONS
from service.embedded.postgres import EmbeddedPostgres
from tests.support.calls import create
from tests.support.contacts import tenant
from tests.support.jobs import connect
from tests.support.metrics import samples, scrape, value
from tests.support.program import Program, free_port, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until

_DOWN = "contact_exports_database_up", frozenset[tuple[str, str]]()


@pytest.fixture
async def program(own_postgres: EmbeddedPostgres, files: StoreUnderTest) -> AsyncIterator[Program]:
    """The program on a server of its own, without ADMIN_TOKEN."""
    own_postgres.start()
    settings = {"DATABASE_URL": own_postgres.dsn(), **files.settings, "ADMIN_PORT": free_port(), "EXPORT_SLOTS": "0"}
    async with running(settings) as program:
        yield program


async def page(program: Program, path: str = "/") -> tuple[int, str]:
    """The status and the text of a page."""
    async with aiohttp.ClientSession() as session, session.get(f"{program.admin}{path}") as response:
        return response.status, await response.text()


@pytest.mark.long
async def test_the_page_and_the_metrics_keep_their_last_figures_while_the_database_is_down(
    program: Program, own_postgres: EmbeddedPostgres
) -> None:
    export_id = await create(program, await tenant(own_postgres.dsn()))
    assert value(await scrape(program.admin), "queue_exports", state="ready") == 1
    assert f'href="/exports/{export_id}"' in (await page(program))[1]

    own_postgres.stop("immediate")
    before = await reported_down(program)
    assert value(before, "queue_exports", state="ready") == 1
    assert value(before, "figures_age_seconds") > 0
    status, text = await page_with(program, "The database is temporarily unavailable.")
    assert status == 200
    assert "What follows was read" in text
    assert f'href="/exports/{export_id}"' in text
    assert (await page(program, f"/exports/{export_id}"))[0] == 503

    later = await scrape(program.admin)
    assert value(later, "figures_age_seconds") > value(before, "figures_age_seconds")
    cpu = "process_cpu_seconds_total", frozenset[tuple[str, str]]()
    assert samples(later)[cpu] >= samples(before)[cpu]
    own_postgres.start()

    async def up_again() -> bool:
        return value(await scrape(program.admin), "database_up") == 1 and "temporarily" not in (await page(program))[1]

    await until(up_again)


async def reported_down(program: Program) -> str:
    """Wait until the metrics say that the database is down; returns them."""
    async with asyncio.timeout(60):
        while samples(text := await scrape(program.admin))[_DOWN] != 0:
            await asyncio.sleep(0.05)
    return text


async def page_with(program: Program, sentence: str) -> tuple[int, str]:
    """Wait until the page contains this sentence; returns its status and text."""
    async with asyncio.timeout(60):
        while sentence not in (found := await page(program))[1]:
            await asyncio.sleep(0.05)
    return found


async def test_metrics_and_the_page_of_a_program_that_never_reached_its_database(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    url = own_postgres.dsn()
    own_postgres.stop()
    async with started({"DATABASE_URL": url, **files.settings, "ADMIN_PORT": free_port()}) as program:
        await program.listening()
        text = await scrape(program.admin)
        assert value(text, "database_up") == 0
        assert "queue_exports" not in text
        assert "Nothing has been read yet." in (await page(program))[1]


@pytest.mark.long
async def test_a_database_that_hangs_delays_a_scrape_and_the_page_by_seconds_at_most(
    program: Program, own_postgres: EmbeddedPostgres
) -> None:
    await scrape(program.admin)
    await page(program)
    async with connect(own_postgres.dsn()) as blocker:
        await blocker.execute("BEGIN; LOCK TABLE export_jobs IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(30):
            text = await reported_down(program)
            assert value(text, "queue_exports", state="ready") == 0
            _, shown = await page_with(program, "What follows was read")
        assert "Running" in shown
        async with asyncio.timeout(30):
            await asyncio.gather(*(scrape(program.admin) for _ in range(20)))
        assert await waiting_readings(own_postgres) <= 1


async def waiting_readings(server: EmbeddedPostgres) -> int:
    """How many readings of the figures wait for a lock."""
    sql = await asyncpg.connect(server.dsn())
    try:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ $1"
        return int(await sql.fetchval(waits, "overdue_leases"))
    finally:
        await sql.close()


async def test_scrapes_that_hang_keep_out_no_other_scrape_and_do_not_delay_the_end(program: Program) -> None:
    host, _, port = program.admin.removeprefix("http://").partition(":")
    hanging = [await asyncio.open_connection(host, int(port), limit=1) for _ in range(CONNECTIONS)]
    for number, (_, writer) in enumerate(hanging):
        # One third has sent nothing, one third half a request, and one third reads no response.
        writer.write((b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50)[number % 3])
    try:
        async with asyncio.timeout(30):
            for _ in range(3):
                assert "contact_exports_build_info" in await scrape(program.admin)
            async with aiohttp.ClientSession() as session, session.get(f"{program.address}/healthz") as response:
                assert response.status == 200
            assert await program.end() == 0
    finally:
        for _, writer in hanging:
            writer.close()

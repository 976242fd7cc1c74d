"""The service with a connection pooler in transaction mode."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from tests.support.calls import EXPORTS, call, cancel, create_once
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of, tenant
from tests.support.export_checks import ROWS, assert_file_is_correct, blocked_reads, unexpected_errors, until_reading
from tests.support.pgbouncer import SERVER_CONNECTIONS, pgbouncer
from tests.support.postgres_proxy import postgres_proxy
from tests.support.program import running
from tests.support.shell import contact_exports
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended

pytestmark = pytest.mark.debian


async def test_replicas_work_through_a_transaction_pooler_and_use_no_session_state(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    other = await tenant(database_url)
    async with postgres_proxy(database_url) as upstream, pgbouncer(upstream.url) as pooler:
        settings = {"DATABASE_URL": pooler.url, "DATABASE_DIRECT_URL": database_url, **store.settings}
        async with running(settings) as first, running(settings) as second:
            export_id = await create(first, space)
            programs = [first, second] * 8
            await asyncio.gather(*(call(each, "GET", f"{EXPORTS}/{export_id}", space) for each in programs))
            others = await asyncio.gather(*(call(each, "POST", EXPORTS, other, **WHOLE_RANGE) for each in programs))
            assert {status for status, _, _ in others} == {202}
            once = set(await asyncio.gather(*(create_once(each.address, other, "a key") for each in programs)))
            assert len(once) == 1
            ended = await cancel(second.address, other, once.pop())
            assert ended.status in ("cancelled", "expired")
            for _, body, _ in others:
                assert (await until_ended(connection, body["export_id"]))["status"] == "completed"
            _, listed, _ = await call(second, "GET", EXPORTS, other)
            assert len(listed["data"]) == len(programs) + 1
            async with ExportClient(second.address, space.key) as client:
                file = await client.download(await client.wait(export_id), tmp_path / "file")
            assert lines_of(file.path) == await expected_lines(connection, space.space_id, tokens=True)
            assert await connection.fetchval("SELECT count(*) FROM export_jobs WHERE attempts > 1 OR lost_leases > 0") == 0
            # Only the transactions of the pool use the pooler; whatever needs a session connects directly.
            assert 1 <= len(upstream.connections()) <= SERVER_CONNECTIONS
            assert {each.application_name for each in upstream.connections()} == {""}
            assert unexpected_errors(first) + unexpected_errors(second) == []


async def test_a_pooler_without_a_direct_address_is_named(database_url: str, files: StoreUnderTest) -> None:
    async with postgres_proxy(database_url) as upstream, pgbouncer(upstream.url) as pooler:
        main = await contact_exports("serve", DATABASE_URL=pooler.url, **files.settings)
        contacts = await contact_exports(
            "serve", DATABASE_URL=database_url, CONTACTS_DATABASE_URL=pooler.url, **files.settings
        )
    for ended in (main, contacts):
        assert ended.code == 2
        assert "a connection pooler such as PgBouncer is in front of the database: set DATABASE_DIRECT_URL" in ended.errors
        assert "Traceback" not in ended.errors


async def test_a_pooler_restart_delays_requests_and_interrupts_no_running_export(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, ROWS)
    async with postgres_proxy(database_url) as upstream, pgbouncer(upstream.url) as pooler:
        settings = {"DATABASE_URL": pooler.url, "DATABASE_DIRECT_URL": database_url, **files.settings}
        async with running(settings) as program:
            async with blocked_reads(database_url):
                export_id = await create(program, space)
                await until_reading(connection)
                await pooler.stop()
                status, _, retry_after = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
                assert (status, retry_after) == (503, "5")
                await pooler.start()
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
            await assert_file_is_correct(connection, program, space, files, export_id, tmp_path / "file")
            assert unexpected_errors(program) == []

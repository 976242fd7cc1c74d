"""Exports that read from a standby, and exports whose rows are lost by a failover."""

from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from service.exports.leftovers import Leftovers
from service.postgres.claims import Claims
from service.postgres.migrate import migrate
from service.postgres.pool import Database
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of, tenant
from tests.support.export_checks import (
    NO_EXPORT_SESSION,
    READ_CONTACTS,
    ROWS,
    blocked_reads,
    outcomes,
    unexpected_errors,
)
from tests.support.jobs import connect
from tests.support.postgres_proxy import Fault, Mode, postgres_proxy
from tests.support.program import running
from tests.support.standby import replicated
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row


async def test_an_attempt_is_retried_when_its_snapshot_conflicts_with_a_standby(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    async with replicated(tmp_path) as pair, connect(pair.primary.dsn()) as primary, connect(pair.standby.dsn()) as standby:
        await migrate(pair.primary.dsn())
        await add_contacts(primary, space.space_id, ROWS)
        await add_contacts(primary, space.space_id + 1, 100)
        await pair.caught_up()
        async with postgres_proxy(pair.standby.dsn()) as proxy:
            proxy.next(READ_CONTACTS, Fault.HOLD_RESPONSE)
            settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
            async with running(settings) as program:
                export_id = await create(program, space)
                await proxy.until_injected(READ_CONTACTS)
                await primary.execute("DELETE FROM contacts WHERE space_id = $1", space.space_id + 1)
                await primary.execute("VACUUM contacts")
                await until_row(standby, NO_EXPORT_SESSION)
                proxy.set_mode(Mode.PASS)
                row = await until_ended(connection, export_id)
                assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
                # Sessions that write are not visible on a standby.
                assert (row["row_count"], row["complete_until"]) == (ROWS, None)
                assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
                assert unexpected_errors(program) == []


async def test_after_a_failover_with_lost_commits_no_row_names_a_missing_file_and_lost_exports_can_be_recreated(
    database_url: str,
    connection: asyncpg.Connection,
    files: StoreUnderTest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with replicated(tmp_path) as pair:
        settings = {"DATABASE_URL": pair.dsn, "CONTACTS_DATABASE_URL": database_url, **files.settings}
        async with running(settings) as program:
            space = await tenant(pair.primary.dsn())
            await add_contacts(connection, space.space_id, ROWS)
            async with connect(pair.primary.dsn()) as primary:
                kept = await create(program, space)
                await until_ended(primary, kept)
                await primary.execute("UPDATE spaces SET max_running_exports = 0")
                interrupted = await create(program, space)
                await pair.caught_up()
                # The standby learns neither of this claim nor of the next export.
                pair.log.set_mode(Mode.FREEZE)
                async with blocked_reads(database_url):
                    await primary.execute("UPDATE spaces SET max_running_exports = 2")
                    await until_row(
                        primary, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL AND ended_at IS NULL"
                    )
                    _, body, _ = await call(program, "POST", EXPORTS, space, **WHOLE_RANGE)
                    forgotten = await until_ended(primary, body["export_id"])
                    await pair.fail_over()
                    await until_logged(program, "claim_lost")
                    assert await files.uploads() == []
            async with connect(pair.standby.dsn()) as promoted:
                assert (await call(program, "GET", f"{EXPORTS}/{forgotten['id']}", space))[0] == 404
                again = await create(program, space)
                await promoted.execute("UPDATE spaces SET max_running_exports = 2")
                for export_id in (interrupted, again):
                    row = await until_ended(promoted, export_id)
                    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
                wanted = await expected_lines(connection, space.space_id, tokens=True)
                async with ExportClient(program.address, space.key) as client:
                    for export_id in (kept, interrupted, again):
                        file = await client.download(await client.wait(export_id), tmp_path / f"file {export_id}")
                        assert lines_of(file.path) == wanted
                named = await promoted.fetch("SELECT object_name FROM export_jobs ORDER BY object_name")
            assert unexpected_errors(program) == []
        assert forgotten["object_name"] in await files.objects()
        monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(minutes=-1))
        async with Database(pair.dsn, application_name="tests", size=1) as database:
            claims = Claims(database, renewals=database)
            await Leftovers(claims, files.store, grace=timedelta(0)).delete_orphans()
        assert await files.objects() == [row["object_name"] for row in named]

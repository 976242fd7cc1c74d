"""What becomes of exports that are read from a standby, and of those that a failover to one forgets."""

from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from service.exports.leftovers import Leftovers
from service.postgres.claims import Claims
from service.postgres.migrate import migrate
from service.postgres.pool import Database
from tests.faults.test_lost_sessions import NO_EXPORT_SESSION, READ, crashes, outcomes
from tests.faults.test_outages import EXPORTS, answer
from tests.faults.test_worker_death import ROWS, create, held_up
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of, tenant
from tests.support.jobs import connect
from tests.support.postgres_proxy import Fault, Mode, postgres_proxy
from tests.support.program import Program, running
from tests.support.standby import replicated
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

UPLOADING = "SELECT 1 FROM export_attempts WHERE ended_at IS NULL AND upload_id IS NOT NULL"


async def test_an_attempt_whose_snapshot_stands_in_the_way_of_a_standby_is_made_again(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    async with replicated(tmp_path) as pair, connect(pair.primary.dsn()) as primary, connect(pair.standby.dsn()) as standby:
        await migrate(pair.primary.dsn())
        await add_contacts(primary, space.space_id, ROWS)
        await add_contacts(primary, space.space_id + 1, 100)
        await pair.caught_up()
        async with postgres_proxy(pair.standby.dsn()) as proxy:
            proxy.next(READ, Fault.HOLD_ANSWER)
            settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": proxy.url, **files.settings}
            async with running(settings) as program:
                export_id = await create(program, space)
                await proxy.met(READ)
                await primary.execute("DELETE FROM contacts WHERE space_id = $1", space.space_id + 1)
                await primary.execute("VACUUM contacts")
                await until_row(standby, NO_EXPORT_SESSION)
                proxy.behave(Mode.PASS)
                row = await until_ended(connection, export_id)
                assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 0)
                # On a standby the transactions that write cannot be seen.
                assert (row["row_count"], row["complete_until"]) == (ROWS, None)
                assert await outcomes(connection) == [("error", "source_unavailable"), ("completed", None)]
                assert crashes(program) == []


async def test_after_a_failover_that_lost_commits_no_row_names_a_missing_file_and_what_was_lost_can_be_asked_again(
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
                # From here on the standby hears nothing more: neither of the claim nor of another export.
                pair.log.behave(Mode.FREEZE)
                async with held_up(database_url):
                    await primary.execute("UPDATE spaces SET max_running_exports = 2")
                    await until_row(
                        primary, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL AND ended_at IS NULL"
                    )
                    _, body, _ = await answer(program, "POST", EXPORTS, space, **WHOLE_RANGE)
                    forgotten = await until_ended(primary, body["export_id"])
                    await pair.fail_over()
                    await until(lambda: _logged(program, "claim_lost"))
                    assert await files.uploads() == []
            async with connect(pair.standby.dsn()) as promoted:
                assert (await answer(program, "GET", f"{EXPORTS}/{forgotten['id']}", space))[0] == 404
                again = await create(program, space)
                await promoted.execute("UPDATE spaces SET max_running_exports = 2")
                for export_id in (interrupted, again):
                    row = await until_ended(promoted, export_id)
                    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
                wanted = await expected_lines(connection, space.space_id, tokens=True)
                async with ExportClient(program.address, space.key) as client:
                    for export_id in (kept, interrupted, again):
                        file = await client.download(await client.ended(export_id), tmp_path / f"file {export_id}")
                        assert lines_of(file.path) == wanted
                named = await promoted.fetch("SELECT object_name FROM export_jobs ORDER BY object_name")
            assert crashes(program) == []
        assert forgotten["object_name"] in await files.objects()
        monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(minutes=-1))
        async with Database(pair.dsn, application_name="tests", size=1) as database:
            claims = Claims(database, renewals=database)
            await Leftovers(claims, files.store, grace=timedelta(0), retry_pause=timedelta(0)).delete_orphans()
        assert await files.objects() == [row["object_name"] for row in named]


async def _logged(program: Program, event: str) -> bool:
    return bool(program.events(event))

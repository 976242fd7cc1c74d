"""Exports while the clock of a process or of the database is wrong."""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from service.embedded.binaries import ENVIRONMENT
from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.support import stores
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import Tenant, add_contacts, tenant
from tests.support.export_checks import blocked_reads
from tests.support.faketime import movable, set_offset, shifted
from tests.support.jobs import connect
from tests.support.object_stores import use_credentials
from tests.support.program import running, started
from tests.support.s3 import S3Access
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_cleaned, until_ended, until_logged, until_row

pytestmark = pytest.mark.debian


async def test_replicas_with_clocks_hours_apart_take_no_lease_from_each_other(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 100)
    limits = {"LEASE_SECONDS": "4", "EXPORT_SLOTS": "2", "SPACE_SLOTS": "4"}
    settings = {"DATABASE_URL": database_url, **limits, **files.settings}
    async with (
        running(settings | shifted("+1h")) as ahead,
        running(settings | shifted("-1h")) as late,
    ):
        async with blocked_reads(database_url):
            export_ids = [await create(program, space) for program in (ahead, late, ahead, late)]
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(*) = 4")
            await until_row(
                connection,
                "SELECT 1 FROM export_jobs HAVING max(claimed_at) < now() - interval '3 s' AND count(DISTINCT worker) = 2",
            )
        rows = [await until_ended(connection, export_id) for export_id in export_ids]
        for program in (ahead, late):
            async with ExportClient(program.address, space.key) as client:
                for export_id in export_ids:
                    file = (await client.wait(export_id)).file
                    assert file is not None
                    assert file.row_count == 100
    assert {(row["status"], row["attempts"], row["lost_leases"]) for row in rows} == {("completed", 1, 0)}
    assert await files.objects() == sorted(row["object_name"] for row in rows)
    now = await connection.fetchval("SELECT now()")
    for row in rows:
        assert now - timedelta(minutes=2) < row["created_at"] < row["snapshot_at"] < row["finished_at"] < now


async def test_a_process_with_a_wrong_clock_reports_that_its_store_refuses_it_for_that(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    s3: S3Access,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_credentials(monkeypatch, s3)
    async with stores.s3_store(s3, bucket) as store:
        settings = {"DATABASE_URL": database_url, "MAX_ATTEMPTS": "1", **store.settings, **shifted("+1h")}
        async with started(settings) as program:
            await program.listening()
            await until_logged(program, "started")
            row = await until_ended(connection, await create(program, space))
    assert (row["status"], row["error_code"]) == ("failed", "storage_refused")
    for detail in (row["error_detail"], program.events("store_not_usable")[0]["detail"]):
        assert "RequestTimeTooSkewed" in detail
        assert "the clocks of this machine and the store differ by more than 15 minutes" in detail


@pytest.fixture
def clock() -> Iterator[Path]:
    """The file that controls the database's clock; pytest's own directories are not readable by the server's user."""
    with tempfile.TemporaryDirectory(prefix="contact-exports-clock-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder, "clock")


@pytest.fixture
def postgres(tmp_path: Path, clock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """A server whose clock can be changed."""
    monkeypatch.setattr("service.embedded.cluster.ENVIRONMENT", {**ENVIRONMENT, **movable(clock)})
    with EmbeddedPostgres(tmp_path / "postgres", parameters={"fsync": "off"}) as server:
        yield server


@pytest.mark.parametrize("step", ["+5m", "-5m"])
async def test_a_database_clock_step_publishes_every_export_once(
    postgres: EmbeddedPostgres, clock: Path, files: StoreUnderTest, step: str
) -> None:
    await migrate(postgres.dsn())
    space = await tenant(postgres.dsn())
    # Timers of the server see the true time now and then, so a statement may take longer than the step.
    settings = {"DATABASE_URL": postgres.dsn(), "FETCH_TIMEOUT_SECONDS": "1000", **files.settings}
    async with connect(postgres.dsn()) as connection, running(settings) as program, running(settings):
        await add_contacts(connection, space.space_id, 100)
        before = await connection.fetchval("SELECT clock_timestamp()")
        async with blocked_reads(postgres.dsn()):
            running_id = await create(program, space)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            set_offset(clock, step)
            stepped = await connection.fetchval("SELECT clock_timestamp()") - before
            assert abs(stepped) > timedelta(minutes=4)
            renewed = "SELECT 1 FROM export_jobs WHERE lease_until BETWEEN now() AND now() + interval '11 s'"
            await until_row(connection, renewed)
        later_id = await create(program, space)
        rows = [await until_ended(connection, export_id) for export_id in (running_id, later_id)]
        assert {(row["status"], row["row_count"]) for row in rows} == {("completed", 100)}
        attempts = await connection.fetch("SELECT attempt, worker, outcome, error_detail FROM export_attempts")
        # A step forward makes the lease look expired once.
        assert rows[0]["attempts"] <= (2 if step == "+5m" else 1), [dict(attempt) for attempt in attempts]
        assert rows[1]["attempts"] == 1
        await until_cleaned(connection)
        assert await files.objects() == sorted(row["object_name"] for row in rows)
        assert await files.uploads() == []
        published = await connection.fetchval("SELECT count(*) FROM export_attempts WHERE outcome = 'completed'")
        assert published == 2

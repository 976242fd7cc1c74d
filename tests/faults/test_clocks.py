"""What becomes of exports when a clock is wrong: a replica's, or the database's."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from service.embedded.binaries import ENVIRONMENT
from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate
from tests.support import stores
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, tenant
from tests.support.faketime import movable, set_offset, shifted
from tests.support.jobs import connect, holding
from tests.support.object_stores import use_credentials
from tests.support.program import Program, running, started
from tests.support.s3 import S3Access
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

pytestmark = pytest.mark.debian

STANDS_STILL = "LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE"
"""While another session has done this an export with tokens stands still in its first read."""


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory as object store."""
    async with stores.directory_store(tmp_path / "files") as store:
        yield store


async def create(program: Program, space: Tenant) -> int:
    """Ask for an export with tokens."""
    async with ExportClient(program.address, space.key) as client:
        return await client.create(**WHOLE_RANGE, include_comet_tokens=1)


async def test_replicas_whose_clocks_are_hours_apart_take_no_lease_from_each_other(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 100)
    limits = {"LEASE_SECONDS": "0.8", "EXPORT_SLOTS": "2", "SPACE_SLOTS": "4"}
    settings = {"DATABASE_URL": database_url, **limits, **files.settings}
    async with (
        running(settings | shifted("+1h")) as ahead,
        running(settings | shifted("-1h")) as behind,
    ):
        async with holding(database_url, STANDS_STILL):
            export_ids = [await create(program, space) for program in (ahead, behind, ahead, behind)]
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(*) = 4")
            await until_row(
                connection,
                "SELECT 1 FROM export_jobs HAVING max(claimed_at) < now() - interval '3 s' AND count(DISTINCT worker) = 2",
            )
        rows = [await until_ended(connection, export_id) for export_id in export_ids]
        for program in (ahead, behind):
            async with ExportClient(program.address, space.key) as client:
                for export_id in export_ids:
                    status = await client.ended(export_id)
                    assert status["row_count"] == 100
    assert {(row["status"], row["attempts"], row["lost_leases"]) for row in rows} == {("completed", 1, 0)}
    assert await files.objects() == sorted(row["object_name"] for row in rows)
    now = await connection.fetchval("SELECT now()")
    for row in rows:
        assert now - timedelta(minutes=2) < row["created_at"] < row["snapshot_at"] < row["finished_at"] < now


async def test_a_process_whose_clock_is_an_hour_off_says_that_its_store_refuses_it_for_that(
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
            await until(lambda: _logged(program, "started"))
            row = await until_ended(connection, await create(program, space))
    assert (row["status"], row["error_code"]) == ("failed", "storage_refused")
    for detail in (row["error_detail"], program.events("store_not_usable")[0]["detail"]):
        assert "RequestTimeTooSkewed" in detail
        assert "the clock of this machine is more than 15 minutes off the store's" in detail


@pytest.fixture
def clock() -> Iterator[Path]:
    """The file that the database's clock follows; pytest's own directories are closed to the server's user."""
    with tempfile.TemporaryDirectory(prefix="contact-exports-clock-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder, "clock")


@pytest.fixture
def postgres(tmp_path: Path, clock: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedPostgres]:
    """A server whose clock can be moved."""
    monkeypatch.setattr("service.embedded.cluster.ENVIRONMENT", {**ENVIRONMENT, **movable(clock)})
    with EmbeddedPostgres(tmp_path / "postgres", parameters={"fsync": "off"}) as server:
        yield server


@pytest.mark.parametrize("step", ["+5m", "-5m"])
async def test_a_database_whose_clock_steps_publishes_every_export_once(
    postgres: EmbeddedPostgres, clock: Path, files: StoreUnderTest, step: str
) -> None:
    await migrate(postgres.dsn())
    space = await tenant(postgres.dsn())
    settings = {"DATABASE_URL": postgres.dsn(), **files.settings}
    async with connect(postgres.dsn()) as connection, running(settings) as program, running(settings):
        await add_contacts(connection, space.space_id, 100)
        before = await connection.fetchval("SELECT clock_timestamp()")
        async with holding(postgres.dsn(), STANDS_STILL):
            running_id = await create(program, space)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            set_offset(clock, step)
            stepped = await connection.fetchval("SELECT clock_timestamp()") - before
            assert abs(stepped) > timedelta(minutes=4)
            renewed = "SELECT 1 FROM export_jobs WHERE lease_until BETWEEN now() AND now() + interval '3 s'"
            await until_row(connection, renewed)
        later_id = await create(program, space)
        rows = [await until_ended(connection, export_id) for export_id in (running_id, later_id)]
        assert {(row["status"], row["row_count"]) for row in rows} == {("completed", 100)}
        # Leases look over once where the clock went forward; nothing else may be lost.
        assert rows[0]["attempts"] <= (2 if step == "+5m" else 1)
        assert rows[1]["attempts"] == 1
        await until_row(connection, "SELECT 1 FROM export_attempts HAVING bool_and(cleaned_at IS NOT NULL)")
        assert await files.objects() == sorted(row["object_name"] for row in rows)
        assert await files.uploads() == []
        published = await connection.fetchval("SELECT count(*) FROM export_attempts WHERE outcome = 'completed'")
        assert published == 2


async def _logged(program: Program, event: str) -> bool:
    return bool(program.events(event))

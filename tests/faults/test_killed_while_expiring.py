"""A process that is killed between two steps of an expiry: the next process does the rest, and no link is issued."""

import signal
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from tests.support.contacts import Tenant, whole_range
from tests.support.program import running, started
from tests.support.stores import directory_store
from tests.support.waiting import until_row

pytestmark = pytest.mark.long


@pytest.mark.parametrize("point", ["expired", "file_deleted", "file_deletion_recorded"])
async def test_an_expiry_is_finished_by_another_process_after_a_kill_between_two_steps(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path, point: str
) -> None:
    async with directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings}
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            await client.wait(await client.create(whole_range()))
        await connection.execute("UPDATE export_jobs SET file_expires_at = now()")
        if point != "expired":
            await connection.execute(
                "UPDATE export_jobs SET status = 'expired', expired_at = now(), file_delete_after = now()"
            )
        armed = {"FAILPOINTS": f"{point}:kill", "ALLOW_FAILPOINTS": "1"}
        async with started(settings | armed) as victim:
            assert await victim.ended() == -signal.SIGKILL
        row = await connection.fetchrow("SELECT * FROM export_jobs")
        assert row is not None
        assert (row["status"], row["file_deleted_at"] is None) == ("expired", point != "file_deletion_recorded")
        assert (await store.objects() == []) == (point != "expired")
        await connection.execute("UPDATE export_jobs SET file_delete_after = now()")
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            assert (await client.wait(row["id"])).download_url is None
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        assert await store.objects() == []

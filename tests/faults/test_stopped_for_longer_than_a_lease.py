"""A process that is stopped for longer than its lease and then continued changes no row and leaves no object."""

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest

from tests.support.export_checks import expire_leases
from tests.support.program import Program, started
from tests.support.scene import Scene
from tests.support.waiting import until_logged, until_row

pytestmark = pytest.mark.long

BEFORE_THE_COMMIT = [
    "claim_sent",
    "claimed",
    "snapshot_open",
    "upload_created",
    "upload_recorded",
    "batch_read",
    "part_sending",
    "part_stored",
    "before_confirm",
    "before_renew",
    "renew_sent",
    "renewed",
    "before_complete_upload",
    "upload_completed",
    "before_outcome",
]
AFTER_THE_COMMIT = ["outcome_committed", "outcome_recorded"]


async def stopped(scene: Scene, opened: AsyncExitStack, few: asyncio.Semaphore, point: str) -> Program:
    """Start a program and stop it at this point of its only attempt."""
    # The stall keeps it at the point until SIGSTOP arrives. It must not rescue the exports of the other stopped programs.
    settings = scene.settings(f"{point}:stall(15)#1", EXPORT_SLOTS="1", SPACE_SLOTS="64", SWEEP_SECONDS="1000")
    async with few:
        program = await opened.enter_async_context(started(settings))
        await until_logged(program, "failpoint")
        program.send(signal.SIGSTOP)
        return program


@pytest.mark.timeout(400)
async def test_a_process_stopped_for_longer_than_its_lease_at_any_point_changes_nothing_afterwards(s3_scene: Scene) -> None:
    points = BEFORE_THE_COMMIT + AFTER_THE_COMMIT
    exports = [await s3_scene.queue() for _ in points]
    async with AsyncExitStack() as opened:
        few = asyncio.Semaphore(4)
        zombies = await asyncio.gather(*(stopped(s3_scene, opened, few, point) for point in points))
        published = await s3_scene.sql.fetchval("SELECT count(*) FROM export_jobs WHERE status = 'completed'")
        assert published == len(AFTER_THE_COMMIT)
        await expire_leases(s3_scene.sql)
        async with s3_scene.running(EXPORT_SLOTS="8", SPACE_SLOTS="64") as successor:
            await until_row(s3_scene.sql, "SELECT 1 FROM export_jobs HAVING bool_and(status = 'completed')")
            before = await s3_scene.sql.fetch("SELECT * FROM export_jobs ORDER BY id")
            for zombie in zombies:
                zombie.send(signal.SIGCONT)
            assert await asyncio.gather(*(zombie.end() for zombie in zombies)) == [0] * len(points)
            await s3_scene.assert_nothing_is_left()
            assert await s3_scene.sql.fetch("SELECT * FROM export_jobs ORDER BY id") == before
            lost = {row["id"]: row["lost_leases"] for row in before}
            assert sorted(lost.values()) == [0] * len(AFTER_THE_COMMIT) + [1] * len(BEFORE_THE_COMMIT)
            for export_id in exports:
                times = lost[export_id]
                await s3_scene.assert_completed(successor, export_id, attempts=1 + times, lost_leases=times)

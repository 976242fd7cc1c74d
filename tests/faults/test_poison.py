"""An export that kills every process that works on it fails in the end and fails no other export."""

import signal

import pytest

from tests.support.export_checks import expire_leases
from tests.support.program import started
from tests.support.scene import Scene
from tests.support.waiting import until_ended, until_row

pytestmark = pytest.mark.long

ATTEMPTS = 3
TOGETHER = "SELECT 1 FROM export_jobs WHERE phase = 'reading' AND lost_leases = $2 HAVING count(*) = $1"
"""This many exports are running that have lost this many leases."""
PASSED_OVER = """SELECT 1 FROM export_jobs other, export_jobs suspect WHERE other.id = $1 AND other.phase = 'reading'
  AND suspect.id = $2 AND suspect.status = 'queued' AND suspect.run_after < now() - interval '0.6 seconds'"""
"""The process that runs `other` has polled several times and did not claim `suspect`."""
ALONE = """SELECT 1 FROM export_jobs suspect WHERE suspect.id = $1 AND suspect.phase = 'reading'
  AND suspect.claimed_at < now() - interval '0.6 seconds'
  AND NOT EXISTS (SELECT FROM export_jobs j WHERE j.status = 'processing' AND j.worker = suspect.worker AND j.id <> $1)"""
"""`suspect` has run for several polls, and its process runs nothing else."""


async def test_an_export_that_kills_its_process_is_isolated_and_fails_while_other_exports_complete(
    scene: Scene,
) -> None:
    poison = await scene.queue(max_attempts=ATTEMPTS)
    spaces = [await scene.other_space() for _ in range(3)]
    *neighbours, later = spaces
    exports = [await scene.queue(space=space, max_attempts=ATTEMPTS) for space in neighbours]
    async with scene.blocked_reads() as blocker:
        for losses in range(2):
            async with started(scene.settings()) as victim:
                await until_row(scene.sql, TOGETHER, 1 + len(exports), losses)
                await victim.end(signal.SIGKILL)
            await expire_leases(scene.sql)
        healthy = await scene.queue(space=later, max_attempts=1)
        async with scene.running() as program:
            await until_row(scene.sql, PASSED_OVER, healthy, poison)
            async with started(scene.settings()) as victim:
                await until_row(scene.sql, ALONE, poison)
                await victim.end(signal.SIGKILL)
            await expire_leases(scene.sql, poison)
            row = await until_ended(scene.sql, poison)
            assert (row["status"], row["error_code"], row["lost_leases"]) == ("failed", "worker_lost", ATTEMPTS)
            assert await scene.outcomes(poison) == ["lost"] * ATTEMPTS
            await blocker.execute("ROLLBACK")
            await scene.assert_completed(program, healthy, space=later)
            for export_id, space in zip(exports, neighbours, strict=True):
                await scene.assert_completed(program, export_id, space=space, attempts=3, lost_leases=2)
            await scene.assert_nothing_is_left()

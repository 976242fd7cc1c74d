"""An export that kills every process that works on it: it fails in the end, and takes no other with it."""

import signal

from tests.support.program import started
from tests.support.scene import Scene
from tests.support.waiting import until_ended, until_row

ATTEMPTS = 3
TOGETHER = "SELECT 1 FROM export_jobs WHERE phase = 'reading' AND lost_leases = $2 HAVING count(*) = $1"
"""So many exports are at work that have lost so many leases before."""
ALONE = """SELECT 1 FROM export_jobs WHERE status = 'processing' AND claimed_at < now() - interval '0.6 seconds'
            HAVING count(*) = 1 AND min(id) = $1"""
"""It has been at work for several looks for more, and nothing else has."""


async def test_an_export_that_kills_its_process_again_and_again_is_isolated_and_fails_and_its_neighbours_complete(
    scene: Scene,
) -> None:
    poison = await scene.queue(max_attempts=ATTEMPTS)
    spaces = [await scene.other_space() for _ in range(2)]
    neighbours = [await scene.queue(space=space, max_attempts=ATTEMPTS) for space in spaces]
    async with scene.held_up():
        for losses in range(2):
            async with started(scene.settings()) as victim:
                await until_row(scene.sql, TOGETHER, 1 + len(neighbours), losses)
                await victim.end(signal.SIGKILL)
        async with started(scene.settings()) as victim:
            await until_row(scene.sql, ALONE, poison)
            await victim.end(signal.SIGKILL)
    async with scene.running() as program:
        row = await until_ended(scene.sql, poison)
        assert (row["status"], row["error_code"], row["lost_leases"]) == ("failed", "worker_lost", ATTEMPTS)
        assert await scene.outcomes(poison) == ["lost"] * ATTEMPTS
        for export_id, space in zip(neighbours, spaces, strict=True):
            await scene.assert_completed(program, export_id, space=space, attempts=3, lost_leases=2)
        await scene.assert_nothing_is_left()

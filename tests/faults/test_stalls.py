"""A process, or one of its exports, that stands still: nobody else waits for it, and no longer than a limit."""

import asyncio
import time
from contextlib import AsyncExitStack

from tests.support.program import Program
from tests.support.scene import Scene
from tests.support.waiting import until, until_ended, until_row

LEASE = 4.0
POINTS = ["claim_sent", "batch_read", "renew_sent", "upload_completed"]


async def at_its_point(program: Program) -> None:
    """Wait until the program has come to its failpoint."""

    async def reached() -> bool:
        return bool(program.events("failpoint"))

    await until(reached)


async def test_a_stall_of_half_a_lease_loses_nothing_at_any_point(scene: Scene) -> None:
    async with AsyncExitStack() as opened:
        # Ready to take at once what is late.
        watching = await opened.enter_async_context(scene.running(EXPORT_SLOTS="0", SWEEP_SECONDS="0.1"))
        settings = {"EXPORT_SLOTS": "1", "SPACE_SLOTS": "64", "LEASE_SECONDS": str(LEASE)}
        programs = await asyncio.gather(
            *(
                opened.enter_async_context(scene.running(f"{point}:stall({LEASE / 2})#1", **settings, POLL_SECONDS="0.1"))
                for point in POINTS
            )
        )
        exports = [await scene.queue() for _ in POINTS]
        for export_id in exports:
            await scene.assert_completed(watching, export_id)
        await asyncio.gather(*(at_its_point(program) for program in programs))
        await scene.assert_nothing_is_left()


async def test_a_process_that_stalls_inside_its_claim_keeps_no_other_from_claiming(scene: Scene) -> None:
    first = await scene.queue()
    async with scene.running("claim_sent:stall(4)#1", LEASE_SECONDS="20") as stalled, scene.running() as other:
        await at_its_point(stalled)
        asked = time.monotonic()
        second = await scene.queue()
        await scene.assert_completed(other, second)
        assert time.monotonic() - asked < 4
        await scene.assert_completed(other, first)


async def test_an_export_that_gets_nowhere_in_a_healthy_process_is_ended_and_tried_again(scene: Scene) -> None:
    async with scene.held_up() as blocker, scene.running(NO_PROGRESS_SECONDS="1") as program:
        export_id = await scene.queue(max_attempts=50)
        attempt = await until_row(scene.sql, "SELECT * FROM export_attempts WHERE outcome IS NOT NULL")
        assert (attempt["outcome"], attempt["error_code"]) == ("error", "internal")
        assert attempt["error_detail"] == "no progress while reading"
        await blocker.execute("ROLLBACK")
        row = await until_ended(scene.sql, export_id)
        await scene.assert_completed(program, export_id, attempts=row["attempts"])
        await scene.assert_nothing_is_left()

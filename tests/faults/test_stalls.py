"""A process or an export that stalls: other exports continue, and the stalled export is aborted after a limit."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.support.export_checks import expire_leases
from tests.support.program import started
from tests.support.scene import Scene
from tests.support.waiting import until_ended, until_logged, until_row

pytestmark = pytest.mark.long

LEASE = 16.0
POINTS = ["claim_sent", "batch_read", "renew_sent", "upload_completed"]


async def test_a_stall_of_half_a_lease_loses_no_export(scene: Scene) -> None:
    async with AsyncExitStack() as opened:
        # This process would rescue an export whose lease expires.
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
        await asyncio.gather(*(until_logged(program, "failpoint") for program in programs))
        await scene.assert_nothing_is_left()


async def test_a_process_that_stalls_in_its_claim_does_not_block_other_claims(scene: Scene) -> None:
    first = await scene.queue()
    async with started(scene.settings("claim_sent:stall(600)#1")) as stalled:
        await until_logged(stalled, "failpoint")
        async with scene.running() as other:
            second = await scene.queue()
            await scene.assert_completed(other, second)
            assert not stalled.events("export_claimed")
            await expire_leases(scene.sql, first)
            await scene.assert_completed(other, first, attempts=2, lost_leases=1)


async def test_an_export_without_progress_is_aborted_and_retried(scene: Scene) -> None:
    async with scene.blocked_reads() as blocker, scene.running(NO_PROGRESS_SECONDS="1") as program:
        export_id = await scene.queue(max_attempts=50)
        attempt = await until_row(scene.sql, "SELECT * FROM export_attempts WHERE outcome IS NOT NULL")
        assert (attempt["outcome"], attempt["error_code"]) == ("error", "internal")
        assert attempt["error_detail"] == "no progress while reading"
        await blocker.execute("ROLLBACK")
        row = await until_ended(scene.sql, export_id)
        await scene.assert_completed(program, export_id, attempts=row["attempts"])
        await scene.assert_nothing_is_left()

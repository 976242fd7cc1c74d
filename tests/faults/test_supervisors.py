"""The loops of a process meet errors of every kind and go on."""

import asyncio
from collections import Counter

from tests.support.scene import Scene
from tests.support.waiting import until, until_row

ERRORS = (
    "before_claim:raise#2,claimed:raise#1,before_renew:raise#1,renewed:raise#1,rescued:raise#1,"
    "clean_aborted:raise#1,clean_deleted:raise#1,cleaned:raise#1,expired:raise#1,file_deleted:raise#1"
)


async def test_every_loop_survives_errors_it_does_not_know(scene: Scene) -> None:
    async with scene.running(ERRORS, LEASE_SECONDS="2") as program:
        async with scene.held_up() as blocker:
            export_id = await scene.queue()
            await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE attempts = 2 AND phase = 'reading'")

            async def renewals_failed() -> bool:
                return failed()["renew"] == 2

            def failed() -> Counter[str]:
                return Counter(event["loop"] for event in program.events("loop_step_failed"))

            await until(renewals_failed)
            await blocker.execute("ROLLBACK")
        await scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()
        await scene.sql.execute("UPDATE export_jobs SET file_expires_at = now()")
        await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE status = 'expired'")
        await scene.sql.execute("UPDATE export_jobs SET file_delete_after = now()")  # when the last link has died
        await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        assert await scene.objects() == []
        assert len(program.events("claim_crashed")) == 3
        assert failed() == {"renew": 2, "rescue": 1, "clean": 3, "expire": 1, "delete_files": 1}
        async with asyncio.timeout(10):
            assert await program.end() == 0

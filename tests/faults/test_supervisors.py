"""The loops of a process continue after errors of every kind."""

from collections import Counter

from tests.support.export_checks import expire_leases
from tests.support.scene import Scene
from tests.support.waiting import until_row, until_true

ERRORS = (
    "before_claim:raise#2,claimed:raise#1,before_renew:raise#1,renewed:raise#1,rescued:raise#1,"
    "clean_aborted:raise#1,clean_deleted:raise#1,cleaned:raise#1,expired:raise#1,file_deleted:raise#1"
)


async def test_every_loop_continues_after_unexpected_errors(scene: Scene) -> None:
    async with scene.running(ERRORS, LEASE_SECONDS="12") as program:
        async with scene.blocked_reads() as blocker:
            export_id = await scene.queue()
            # The first claim is committed and then fails in the process, so no process works on the export.
            await until_true(lambda: len(program.events("claim_crashed")) == 3)
            await expire_leases(scene.sql, export_id)
            await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE attempts = 2 AND phase = 'reading'")

            def failed() -> Counter[str]:
                return Counter(event["loop"] for event in program.events("loop_step_failed"))

            await until_true(lambda: failed()["renew"] == 2)
            await blocker.execute("ROLLBACK")
        await scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()
        await scene.sql.execute("UPDATE export_jobs SET file_expires_at = now()")
        await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE status = 'expired'")
        await scene.sql.execute("UPDATE export_jobs SET file_delete_after = now()")  # as if the last link had expired
        await until_row(scene.sql, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        assert await scene.objects() == []
        assert failed() == {"renew": 2, "rescue": 1, "clean": 3, "expire": 1, "delete_files": 1}
        assert await program.end() == 0

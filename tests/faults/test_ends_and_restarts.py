"""Processes that are told to end, again and again, politely or not: no export is lost, and a deploy uses up no attempt."""

import asyncio
import signal

import aiohttp

from service.client import ExportClient
from tests.support.contacts import WHOLE_RANGE
from tests.support.program import Program, started
from tests.support.scene import READING, Scene
from tests.support.waiting import until, until_row


async def stopping(program: Program) -> None:
    """Wait until the program has begun to end."""

    async def logged() -> bool:
        return bool(program.events("stopping"))

    await until(logged)


async def test_all_processes_killed_at_once_and_started_again_end_every_export(scene: Scene) -> None:
    others = [await scene.other_space() for _ in range(2)]
    spaces = [scene.space, *others, scene.space, *others]
    async with scene.held_up(), scene.running() as one, scene.running() as two, scene.running() as three:
        exports = [await scene.queue(space=space) for space in spaces]
        await until_row(scene.sql, READING, len(exports))
        await asyncio.gather(*(program.end(signal.SIGKILL) for program in (one, two, three)))
    async with scene.running() as program, scene.running():
        for export_id, space in zip(exports, spaces, strict=True):
            await scene.assert_completed(program, export_id, space=space, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()


async def test_while_a_process_ends_it_answers_finishes_what_runs_and_claims_nothing(scene: Scene) -> None:
    async with scene.held_up() as blocker, scene.running(GRACE_SECONDS="20") as program:
        first = await scene.queue()
        await until_row(scene.sql, READING, 1)
        program.send(signal.SIGTERM)
        await stopping(program)
        async with ExportClient(program.address, scene.space.key) as client:
            second = await client.create(**WHOLE_RANGE, include_comet_tokens=1)
        async with aiohttp.request("GET", f"{program.address}/healthz") as alive:
            assert alive.status == 200
        async with aiohttp.request("GET", f"{program.address}/readyz") as ready:
            assert ready.status == 503
        await blocker.execute("ROLLBACK")
        assert await program.ended() == 0
        assert await scene.outcomes(first) == ["completed"]
        assert await scene.attempts(second) == []
    async with scene.running() as program:
        await scene.assert_completed(program, first)
        await scene.assert_completed(program, second)
        await scene.assert_nothing_is_left()


async def test_what_is_handed_back_is_taken_at_once_by_another_process(scene: Scene) -> None:
    async with scene.held_up(), scene.running(GRACE_SECONDS="0", LEASE_SECONDS="30") as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
        async with scene.running(LEASE_SECONDS="30", POLL_SECONDS="0.2", GRACE_SECONDS="0") as other:
            assert await ending.end() == 0
            query = "SELECT * FROM export_attempts WHERE job_id = $1 AND outcome IS NULL"
            second = await until_row(scene.sql, query, export_id)
            (first, _) = await scene.attempts(export_id)
            assert first["outcome"] == "handed_back"
            assert (second["started_at"] - first["ended_at"]).total_seconds() < 1
            assert [name for name in await scene.uploads() if name == first["object_name"]] == []
            assert await other.end() == 0


async def test_killed_while_it_hands_back_is_as_if_it_had_not_begun_to(scene: Scene) -> None:
    async with scene.held_up(), started(scene.settings("shutdown_handing_back:kill", GRACE_SECONDS="0")) as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, READING, 1)
        assert await ending.end() == -signal.SIGKILL
    async with scene.running() as program:
        await scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()


async def test_a_hand_back_whose_answer_is_lost_is_counted_once(scene: Scene) -> None:
    async with scene.held_up(), scene.running("settle_committed:raise#1", GRACE_SECONDS="0") as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, READING, 1)
        assert await ending.end() == 0
        assert len(ending.events("settle_unanswered")) == 1
        assert len(ending.events("export_handed_back")) == 1
    async with scene.running() as program:
        await scene.assert_completed(program, export_id, handed_back=1)


async def test_a_deploy_after_the_other_uses_up_no_attempt_and_short_exports_get_done(scene: Scene) -> None:
    deploys = 4
    async with scene.held_up():
        long = await scene.queue(max_attempts=1)
        for _ in range(deploys):
            async with scene.running(GRACE_SECONDS="0") as program:
                await until_row(scene.sql, READING, 1)
                async with ExportClient(program.address, scene.space.key) as client:
                    short = await client.ended(await client.create(**WHOLE_RANGE))
                assert short["status"] == "completed"
                assert await program.end() == 0
    async with scene.running() as program:
        await scene.assert_completed(program, long, handed_back=deploys)
        await scene.assert_nothing_is_left()

"""Processes that are stopped or killed and restarted: no export is lost, and a deploy uses up no attempt."""

import asyncio
import signal
from contextlib import suppress

import aiohttp
import pytest

from service.client import ExportClient, ExportStatus, Extra
from tests.support.contacts import whole_range
from tests.support.export_checks import expire_leases
from tests.support.program import Program, started
from tests.support.scene import READING, Scene
from tests.support.waiting import until_logged, until_row

MIB = 1024 * 1024

pytestmark = pytest.mark.long


async def test_all_exports_complete_after_all_processes_were_killed_and_restarted(scene: Scene) -> None:
    others = [await scene.other_space() for _ in range(2)]
    spaces = [scene.space, *others, scene.space, *others]
    async with scene.blocked_reads(), scene.running() as one, scene.running() as two, scene.running() as three:
        exports = [await scene.queue(space=space) for space in spaces]
        await until_row(scene.sql, READING, len(exports))
        await asyncio.gather(*(program.end(signal.SIGKILL) for program in (one, two, three)))
        await expire_leases(scene.sql)
    async with scene.running() as program, scene.running():
        for export_id, space in zip(exports, spaces, strict=True):
            await scene.assert_completed(program, export_id, space=space, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()


async def slow_download(scene: Scene, program: Program, size: int, *, pace: float) -> int:
    """Read a file of this size while the program stops, 1 MiB per `pace` seconds; return the number of bytes received."""
    name = "1/1/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"
    async with scene.store.store.upload(name, part_size=size, filename="x.gz", metadata={}) as upload:
        await upload.put_part(1, [bytes(size)])
        await upload.complete()
    link = await scene.store.store.link(name, filename="x.gz", origin=program.address)
    received = 0
    async with aiohttp.request("GET", link.url, timeout=aiohttp.ClientTimeout(60)) as response:
        program.send(signal.SIGTERM)
        with suppress(aiohttp.ClientPayloadError):
            async for chunk in response.content.iter_chunked(MIB):
                received += len(chunk)
                await asyncio.sleep(pace * len(chunk) / MIB)
    return received


async def test_a_download_from_a_stopping_process_finishes_within_the_grace_period(scene: Scene) -> None:
    async with scene.running(GRACE_SECONDS="30") as program:
        assert await slow_download(scene, program, 40 * MIB, pace=0.1) == 40 * MIB
        assert await program.ended() == 0


async def test_a_download_that_takes_longer_than_the_grace_period_is_cut_off(scene: Scene) -> None:
    async with scene.running(GRACE_SECONDS="1") as program:
        assert await slow_download(scene, program, 40 * MIB, pace=0.2) < 40 * MIB
        assert await program.ended() == 0


async def test_a_stopping_process_serves_requests_finishes_running_exports_and_claims_no_more(scene: Scene) -> None:
    async with scene.blocked_reads() as blocker, scene.running(GRACE_SECONDS="20") as program:
        first = await scene.queue()
        await until_row(scene.sql, READING, 1)
        program.send(signal.SIGTERM)
        await until_logged(program, "stopping")
        async with ExportClient(program.address, scene.space.key) as client:
            second = await client.create(whole_range(Extra.COMET_TOKENS))
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


async def test_an_export_that_was_handed_back_is_claimed_by_another_process_at_once(scene: Scene) -> None:
    async with scene.blocked_reads(), scene.running(GRACE_SECONDS="0") as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
        async with scene.running(GRACE_SECONDS="0", LEASE_SECONDS="100") as other:
            assert await ending.end() == 0
            query = "SELECT * FROM export_attempts WHERE job_id = $1 AND outcome IS NULL"
            second = await until_row(scene.sql, query, export_id)
            (first, _) = await scene.attempts(export_id)
            assert first["outcome"] == "handed_back"
            assert (second["started_at"] - first["ended_at"]).total_seconds() < 30, "well before a lease of 100 s ends"
            assert [name for name in await scene.uploads() if name == first["object_name"]] == []
            assert await other.end() == 0


async def test_a_kill_while_exports_are_handed_back_loses_no_export(scene: Scene) -> None:
    async with scene.blocked_reads(), started(scene.settings("shutdown_handing_back:kill", GRACE_SECONDS="0")) as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, READING, 1)
        assert await ending.end() == -signal.SIGKILL
        await expire_leases(scene.sql)
    async with scene.running() as program:
        await scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        await scene.assert_nothing_is_left()


async def test_a_handback_without_a_response_counts_once(scene: Scene) -> None:
    async with scene.blocked_reads(), scene.running("outcome_committed:raise#1", GRACE_SECONDS="0") as ending:
        export_id = await scene.queue()
        await until_row(scene.sql, READING, 1)
        assert await ending.end() == 0
        assert len(ending.events("outcome_not_recorded")) == 1
        assert len(ending.events("export_handed_back")) == 1
    async with scene.running() as program:
        await scene.assert_completed(program, export_id, handed_back=1)


async def test_repeated_deploys_use_up_no_attempt_and_short_exports_complete(scene: Scene) -> None:
    deploys = 4
    async with scene.blocked_reads():
        long = await scene.queue(max_attempts=1)
        for _ in range(deploys):
            async with scene.running(GRACE_SECONDS="0") as program:
                await until_row(scene.sql, READING, 1)
                async with ExportClient(program.address, scene.space.key) as client:
                    short = await client.wait(await client.create(whole_range()))
                assert short.status is ExportStatus.COMPLETED
                assert await program.end() == 0
    async with scene.running() as program:
        await scene.assert_completed(program, long, handed_back=deploys)
        await scene.assert_nothing_is_left()

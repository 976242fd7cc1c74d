"""A process that is killed between two steps of an attempt: another one completes the export and nothing is left over."""

import asyncio
import signal
from datetime import timedelta

import pytest

from service.exports.leftovers import Leftovers
from service.postgres.claims import Claims
from service.postgres.pool import Database
from tests.support.export_checks import expire_leases
from tests.support.program import started
from tests.support.s3_faults import hang, s3_faults
from tests.support.scene import Scene

pytestmark = pytest.mark.long


async def assert_completed_by_another(scene: Scene, export_id: int) -> None:
    """A new process completes the export in a second attempt and removes the leftovers of the first."""
    async with scene.running() as program:
        await scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        assert await scene.outcomes(export_id) == ["lost", "completed"]
        await scene.assert_nothing_is_left()
        assert await program.end() == 0


async def test_a_kill_after_the_claim_was_committed_loses_no_export(scene: Scene) -> None:
    export_id = await scene.queue()
    await scene.killed("claim_sent:kill")
    assert [attempt["upload_id"] for attempt in await scene.attempts(export_id)] == [None]
    assert await scene.uploads() == []
    await assert_completed_by_another(scene, export_id)


async def test_a_kill_after_an_upload_was_created_and_before_it_was_recorded_leaves_no_upload(s3_scene: Scene) -> None:
    export_id = await s3_scene.queue()
    await s3_scene.killed("upload_created:kill")
    (attempt,) = await s3_scene.attempts(export_id)
    assert attempt["upload_id"] is None
    assert await s3_scene.uploads() == [attempt["object_name"]]
    await assert_completed_by_another(s3_scene, export_id)


@pytest.mark.parametrize("point", ["batch_read", "part_stored"])
async def test_a_kill_while_contacts_are_streamed_loses_no_export(scene: Scene, point: str) -> None:
    export_id = await scene.queue()
    await scene.killed(f"{point}:kill")
    assert len(await scene.uploads()) == 1
    await assert_completed_by_another(scene, export_id)


async def test_a_kill_while_a_part_is_uploaded_leaves_no_upload(s3_scene: Scene) -> None:
    export_id = await s3_scene.queue()
    async with s3_faults(s3_scene.store.settings["S3_ENDPOINT_URL"]) as faults:
        faults.always("UploadPart", hang)
        async with started(s3_scene.settings(S3_ENDPOINT_URL=faults.endpoint_url)) as victim, asyncio.timeout(60):
            await faults.reached("UploadPart")
            await victim.end(signal.SIGKILL)
    await expire_leases(s3_scene.sql)
    assert len(await s3_scene.uploads()) == 1
    await assert_completed_by_another(s3_scene, export_id)


async def test_a_kill_before_an_upload_is_completed_leaves_no_upload(s3_scene: Scene) -> None:
    export_id = await s3_scene.queue()
    await s3_scene.killed("before_complete_upload:kill")
    assert len(await s3_scene.uploads()) == 1
    await assert_completed_by_another(s3_scene, export_id)


async def test_a_kill_with_a_complete_file_that_no_row_names_leaves_no_object(s3_scene: Scene) -> None:
    export_id = await s3_scene.queue()
    await s3_scene.killed("upload_completed:kill")
    (attempt,) = await s3_scene.attempts(export_id)
    assert await s3_scene.objects() == [attempt["object_name"]]
    await assert_completed_by_another(s3_scene, export_id)


@pytest.mark.parametrize("point", ["outcome_committed", "outcome_recorded"])
async def test_a_kill_after_the_file_was_published_changes_nothing(scene: Scene, point: str) -> None:
    export_id = await scene.queue()
    await scene.killed(f"{point}:kill")
    row = await scene.sql.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id)
    async with Database(scene.database_url, application_name="tests", size=1) as database, scene.running() as program:
        claims = Claims(database, renewals=database)
        leftovers = Leftovers(claims, scene.store.store, grace=timedelta(0))
        await claims.rescue(pause=timedelta(0))
        await leftovers.clean()
        await leftovers.abort_abandoned()
        await scene.assert_completed(program, export_id)
        assert await scene.sql.fetchrow("SELECT * FROM export_jobs WHERE id = $1", export_id) == row
        await scene.assert_nothing_is_left()


@pytest.mark.parametrize("point", ["rescued", "clean_aborted", "clean_deleted"])
async def test_a_kill_while_leftovers_are_removed_leaves_nothing(s3_scene: Scene, point: str) -> None:
    export_id = await s3_scene.queue()
    await s3_scene.killed("upload_completed:kill")
    # It runs no export, so that its own attempt cannot be killed as well.
    await s3_scene.killed(f"{point}:kill", EXPORT_SLOTS="0", LEASE_SECONDS="0.5")
    async with s3_scene.running() as program:
        await s3_scene.assert_completed(program, export_id, attempts=2, lost_leases=1)
        await s3_scene.assert_nothing_is_left()

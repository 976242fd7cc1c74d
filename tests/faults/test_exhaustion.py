"""A process that may open or write no file any more: it stays up, and goes on when it may again."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.support.program import Program, started
from tests.support.scene import Scene
from tests.support.waiting import until, until_ended, until_row


@contextmanager
def limited(program: Program, kind: int, limit: int) -> Iterator[None]:
    """Inside the block the program has this soft limit."""
    soft, hard = resource.prlimit(program.pid, kind)
    resource.prlimit(program.pid, kind, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(program.pid, kind, (soft, hard))


def descriptors(program: Program) -> int:
    """How many it has open."""
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))


async def at_work(program: Program) -> None:
    """Wait until it has started and looked at its store, without asking whether it can work."""
    await program.listening()

    async def logged() -> bool:
        return bool(program.events("store_usable"))

    await until(logged)


async def test_a_process_without_a_free_descriptor_is_not_ready_and_tries_its_exports_again_later(scene: Scene) -> None:
    async with started(scene.settings()) as program, aiohttp.ClientSession() as session:
        await at_work(program)
        async with session.get(f"{program.address}/healthz") as alive:
            assert alive.status == 200
        with limited(program, resource.RLIMIT_NOFILE, descriptors(program)):
            export_id = await scene.queue(max_attempts=50)
            failed = await until_row(scene.sql, "SELECT * FROM export_attempts WHERE outcome IS NOT NULL")
            assert failed["outcome"] == "error"
            assert failed["error_code"] in ("source_unavailable", "storage_unavailable")
            assert "Too many open files" in failed["error_detail"]
            async with session.get(f"{program.address}/readyz") as ready:  # on the connection that is open already
                assert ready.status == 503
                assert "store" in json.dumps(await ready.json())
        await program.ready()
        row = await until_ended(scene.sql, export_id)
        await scene.assert_completed(program, export_id, attempts=row["attempts"])
        await scene.assert_nothing_is_left()
        assert await program.end() == 0


async def test_with_files_in_a_bucket_a_process_needs_no_disk(s3_scene: Scene) -> None:
    async with started(s3_scene.settings()) as program:
        with limited(program, resource.RLIMIT_FSIZE, 0):
            await at_work(program)
            export_id = await s3_scene.queue()
            await s3_scene.assert_completed(program, export_id)
            await s3_scene.assert_nothing_is_left()
        assert await program.end() == 0


async def test_with_files_on_a_disk_that_is_full_an_export_waits_for_room(scene: Scene) -> None:
    async with scene.running() as program:
        with limited(program, resource.RLIMIT_FSIZE, 0):
            export_id = await scene.queue(max_attempts=50)
            failed = await until_row(scene.sql, "SELECT * FROM export_attempts WHERE outcome IS NOT NULL")
            assert (failed["outcome"], failed["error_code"]) == ("error", "storage_full")
        await scene.sql.execute("UPDATE export_jobs SET run_after = now()")
        await scene.assert_completed(program, export_id, attempts=2)
        await scene.assert_nothing_is_left()

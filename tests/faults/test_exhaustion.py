"""A process that cannot open or write files stays up, and continues when it can again."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.support.program import Program, started
from tests.support.scene import Scene
from tests.support.waiting import until_ended, until_logged, until_row


@contextmanager
def limited(program: Program, kind: int, limit: int) -> Iterator[None]:
    """Apply this soft resource limit to the program inside the block."""
    soft, hard = resource.prlimit(program.pid, kind)
    resource.prlimit(program.pid, kind, (limit, hard))
    try:
        yield
    finally:
        resource.prlimit(program.pid, kind, (soft, hard))


def descriptors(program: Program) -> int:
    """Return the number of open file descriptors."""
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))


async def until_started(program: Program) -> None:
    """Wait until it listens and has probed its store, without a readiness request."""
    await program.listening()
    await until_logged(program, "store_usable")


async def test_a_lack_of_descriptors_is_not_ready_and_uses_up_no_attempt(scene: Scene) -> None:
    async with started(scene.settings()) as program, aiohttp.ClientSession() as session:
        await until_started(program)
        async with session.get(f"{program.address}/healthz") as alive:
            assert alive.status == 200
        with limited(program, resource.RLIMIT_NOFILE, descriptors(program)):
            export_id = await scene.queue(max_attempts=1)
            await until_logged(program, "out_of_resources")
            async with session.get(f"{program.address}/readyz") as ready:  # reuses the open connection
                assert ready.status == 503
                assert "store" in json.dumps(await ready.json())
            await until_row(scene.sql, "SELECT 1 FROM export_attempts WHERE outcome = 'handed_back'")
        await program.ready()
        row = await until_ended(scene.sql, export_id)
        await scene.assert_completed(program, export_id, attempts=1, handed_back=row["handed_back"])
        await scene.assert_nothing_is_left()
        assert await program.end() == 0


async def test_a_process_with_an_s3_store_needs_no_disk(s3_scene: Scene) -> None:
    async with started(s3_scene.settings()) as program:
        with limited(program, resource.RLIMIT_FSIZE, 0):
            await until_started(program)
            export_id = await s3_scene.queue()
            await s3_scene.assert_completed(program, export_id)
            await s3_scene.assert_nothing_is_left()
        assert await program.end() == 0


async def test_an_export_to_a_full_disk_waits_for_space(scene: Scene) -> None:
    async with scene.running() as program:
        with limited(program, resource.RLIMIT_FSIZE, 0):
            export_id = await scene.queue(max_attempts=50)
            failed = await until_row(scene.sql, "SELECT * FROM export_attempts WHERE outcome IS NOT NULL")
            assert (failed["outcome"], failed["error_code"]) == ("error", "storage_full")
        await scene.sql.execute("UPDATE export_jobs SET run_after = now()")
        await scene.assert_completed(program, export_id, attempts=2)
        await scene.assert_nothing_is_left()

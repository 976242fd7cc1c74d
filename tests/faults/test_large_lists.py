"""Many large lists at once take bounded memory."""

import asyncio

import aiohttp
import pytest

from tests.hold.run import memory_mib
from tests.support.calls import EXPORTS
from tests.support.scene import Scene

pytestmark = pytest.mark.long

_LISTS = 40
_ROWS = 5000
_GROWTH_MIB = 80
"""Without turns the growth is about 200 MiB."""


async def test_40_lists_of_5000_exports_at_once_take_bounded_memory(scene: Scene) -> None:
    await scene.queue()
    columns = "space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id"
    await scene.sql.execute(
        f"INSERT INTO export_jobs ({columns}) SELECT {columns} FROM export_jobs, generate_series(2, {_ROWS})"
    )
    headers = {"Authorization": f"Bearer {scene.space.key}"}
    async with (
        scene.running(EXPORT_SLOTS="0", RATE_LIMIT_OTHER="1000/minute") as program,
        aiohttp.ClientSession() as session,
    ):

        async def fetch() -> int:
            async with session.get(f"{program.address}{EXPORTS}?per_page={_ROWS}", headers=headers) as response:
                assert response.status == 200, await response.text()
                return len(await response.read())

        before, most = memory_mib(program), 0.0
        lists = [asyncio.create_task(fetch()) for _ in range(_LISTS)]
        while not all(task.done() for task in lists):
            most = max(most, memory_mib(program))
            await asyncio.sleep(0.05)
        await asyncio.gather(*lists)
        assert most - before < _GROWTH_MIB

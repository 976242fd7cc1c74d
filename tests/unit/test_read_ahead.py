"""read_ahead yields the same items in order, fetches at most `depth` ahead, and always closes the source."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from service.postgres.read_ahead import read_ahead


class Source:
    """Counts up; records how many items were requested, and whether it was closed."""

    def __init__(self, count: int, *, then: BaseException | None = None) -> None:
        self.asked = 0
        self.closed = False
        self._count = count
        self._then = then

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._count):
                self.asked += 1
                await asyncio.sleep(0)
                yield number
            if self._then is not None:
                raise self._then
        finally:
            self.closed = True


async def run_other_tasks() -> None:
    """Let all runnable tasks continue."""
    for _ in range(50):
        await asyncio.sleep(0)


def other_tasks() -> set[asyncio.Task[object]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
async def test_the_items_are_those_of_the_source_in_order(count: int, depth: int) -> None:
    source = Source(count)
    assert [item async for item in read_ahead(source.items(), depth)] == list(range(count))
    assert source.closed
    assert other_tasks() == set()


@pytest.mark.parametrize("depth", [1, 2, 5])
async def test_the_next_items_are_fetched_early_and_at_most_depth_of_them(depth: int) -> None:
    source = Source(20)
    async with aclosing(read_ahead(source.items(), depth)) as items:
        for taken in range(1, 6):
            await anext(items)
            await run_other_tasks()
            assert source.asked == taken + depth


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_items_before_an_error_are_yielded_first(count: int) -> None:
    source = Source(count, then=ZeroDivisionError())
    taken: list[int] = []

    async def consume() -> None:
        async for item in read_ahead(source.items(), 2):
            await run_other_tasks()
            taken.append(item)

    with pytest.raises(ZeroDivisionError):
        await consume()
    assert taken == list(range(count))
    assert source.closed
    assert other_tasks() == set()


async def test_a_consumer_that_stops_early_closes_the_source() -> None:
    source = Source(20)
    async with aclosing(read_ahead(source.items(), 2)) as items:
        await anext(items)
    assert source.closed
    assert other_tasks() == set()


async def test_a_consumer_that_is_cancelled_while_it_waits_closes_the_source() -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncGenerator[int, None]:
        try:
            await asyncio.get_running_loop().create_future()
            yield 0
        finally:
            closed.set()

    async def consume() -> None:
        async with aclosing(read_ahead(silent(), 2)) as items:
            await anext(items)

    consuming = asyncio.create_task(consume())
    await run_other_tasks()
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming
    assert closed.is_set()
    assert other_tasks() == set()

"""Reads ahead of a consumer: the next items are fetched while it works on the current one."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")
_END = object()


async def read_ahead(source: AsyncGenerator[T, None], depth: int) -> AsyncGenerator[T, None]:
    """Iterate over `source` in a background task, at most `depth` items ahead of the consumer (counting the one in flight).

    The next item is requested as soon as there is room, so the server does not idle while the consumer works. Raises what
    `source` raises, and closes `source` whenever the iteration ends.
    """
    ready: deque[T] = deque()
    room = asyncio.Semaphore(depth)
    changed = asyncio.Event()

    async def pull() -> None:
        async with aclosing(source):
            while True:
                await room.acquire()
                item = await anext(source, _END)
                if item is _END:
                    return
                ready.append(item)  # type: ignore[arg-type]  # it is no end marker here
                changed.set()

    pulling = asyncio.create_task(pull())
    pulling.add_done_callback(lambda _: changed.set())
    try:
        while True:
            while not ready and not pulling.done():
                changed.clear()
                await changed.wait()
            if not ready:
                pulling.result()
                return
            item = ready.popleft()
            room.release()
            yield item
    finally:
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)

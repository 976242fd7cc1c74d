"""Reading ahead: what is asked for next is under way while the consumer works on what it has."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")
_END = object()


async def read_ahead(source: AsyncGenerator[T, None], depth: int) -> AsyncGenerator[T, None]:
    """The items of `source`, which a task fetches: at most `depth` are fetched or being fetched and not yet taken.

    The next item is asked for as soon as there is room, not when the consumer comes back: a server on the other side
    never waits for what is done with its last answer. Ends as `source` does, and closes it whenever it is left.
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
                ready.append(item)  # type: ignore[arg-type]
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

"""Cuts a stream of chunks into parts of one constant size, and hands over at most two at once."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from service.failures import TooLarge
from service.model import Part

IN_FLIGHT = 2
"""Parts handed over and not yet stored. An upload holds this many parts in memory, and the one being filled."""

PutPart = Callable[[int, Part], Awaitable[None]]


class PartWriter:
    """Cuts a stream into parts and hands them over with back-pressure. Leaving the block early cancels parts in flight.

    `on_stored` gets the size of each part that the store has accepted. `write` and `finish` raise TooLarge beyond
    `maximum_parts`, and the errors of earlier calls of `put_part`.
    """

    def __init__(self, put_part: PutPart, *, part_size: int, maximum_parts: int, on_stored: Callable[[int], None]) -> None:
        self._put_part = put_part
        self._part_size = part_size
        self._maximum_parts = maximum_parts
        self._on_stored = on_stored
        self._chunks: list[bytes | memoryview] = []
        self._held = 0
        self._number = 0
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._sending: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)

    async def write(self, chunk: bytes) -> None:
        """Add a chunk; waits while two parts are in flight."""
        self._chunks.append(chunk)
        self._held += len(chunk)
        while self._held >= self._part_size:
            await self._hand_over(self._part_size)

    async def finish(self) -> None:
        """Hand over the rest, at least one part even if it is empty, and wait until all parts are stored."""
        if self._held or not self._number:
            await self._hand_over(self._held)
        await asyncio.gather(*self._sending)

    async def _hand_over(self, size: int) -> None:
        # Wait for room before cutting the part: a part that waits for room would be one more in memory.
        await self._room.acquire()
        self._raise_failure()
        if self._number == self._maximum_parts:
            raise TooLarge(detail=f"more than {self._maximum_parts} parts of {self._part_size} bytes")
        self._number += 1
        part, self._chunks = _cut(self._chunks, size)
        self._held -= size
        task = asyncio.create_task(self._send(self._number, part, size))
        self._sending.add(task)

    async def _send(self, number: int, part: Part, size: int) -> None:
        try:
            await self._put_part(number, part)
            self._on_stored(size)
        finally:
            self._room.release()

    def _raise_failure(self) -> None:
        for task in [task for task in self._sending if task.done()]:
            self._sending.remove(task)
            task.result()


def _cut(chunks: list[bytes | memoryview], size: int) -> tuple[Part, list[bytes | memoryview]]:
    """The first `size` bytes, and the bytes after them. Only the last chunk can cross the border. Nothing is copied."""
    *whole, last = chunks or [b""]
    border = size - sum(map(len, whole))
    view = memoryview(last)
    return [*whole, view[:border]], [view[border:]] if border < len(last) else []

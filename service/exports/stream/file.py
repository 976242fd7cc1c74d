"""The stream of one attempt: batches in, parts out, and the facts about the file."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.exports.stream.compress import GzipStream
from service.exports.stream.lines import Encoder
from service.exports.stream.parts import PartWriter
from service.model import StoredFile

BLOCK_SIZE = 512 * 1024
"""Bytes of lines per call into the thread: a call costs 50 to 100 µs, compressing a block of this size 1 ms."""
_BLOCKS = 2
"""Blocks in the thread at once. With one, the encoder waits for the thread to wake up, which costs 5 % of an export."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Where the batches come from, how they become lines, and where the parts go."""

    batches: AsyncIterator[Sequence[Any]]
    encode: Encoder
    parts: PartWriter


async def write_file(
    stream: Stream, *, before_batch: Callable[[], Awaitable[None]], on_encoded: Callable[[int, int], None]
) -> StoredFile:
    """Encode, compress and hand over all batches; returns when every part is stored.

    `before_batch` is awaited before each batch, so that the event loop can do other work. `on_encoded` gets the rows of
    each batch and the bytes of its lines. Blocks are compressed while the following ones are read and encoded.
    """
    gzip = GzipStream()
    rows = 0
    block: list[bytes] = []
    size = 0
    compressing: deque[asyncio.Future[bytes]] = deque()
    try:
        async for batch in stream.batches:
            await before_batch()
            lines = stream.encode(batch)
            block.append(lines)
            size += len(lines)
            rows += len(batch)
            on_encoded(len(batch), len(lines))
            if size >= BLOCK_SIZE:
                while len(compressing) == _BLOCKS or (compressing and compressing[0].done()):
                    await stream.parts.write(await compressing.popleft())
                compressing.append(gzip.compress(block))
                block, size = [], 0
        compressing.append(gzip.finish(block))
        while compressing:
            await stream.parts.write(await compressing.popleft())
    finally:
        for chunk in compressing:
            chunk.cancel()
        await asyncio.gather(*compressing, return_exceptions=True)
    await stream.parts.finish()
    return StoredFile(rows, gzip.size, gzip.sha256)

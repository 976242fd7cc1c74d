"""The stream of one attempt: batches in, parts out, and the facts about the file."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from service.model import StoredFile
from service.pipeline.compress import GzipStream
from service.pipeline.lines import Encoder
from service.pipeline.parts import PartWriter

BLOCK_SIZE = 512 * 1024
"""Bytes of lines that go into the thread at once: a hop costs 50 to 100 µs, a block of this size a millisecond."""


async def export_stream(
    batches: AsyncIterator[Sequence[Any]],
    encode: Encoder,
    parts: PartWriter,
    *,
    read: Callable[[int, int], None],
    turn: Callable[[], Awaitable[None]],
) -> StoredFile:
    """Encode, compress and hand over all batches; returns when every part is stored.

    `read` is called with the rows of each batch and the bytes of its lines; `turn` is awaited before each and lets the event
    loop do other things. A block is compressed while the next one is read and encoded.
    """
    gzip = GzipStream()
    rows = 0
    block: list[bytes] = []
    size = 0
    compressing: asyncio.Task[bytes] | None = None
    try:
        async for batch in batches:
            await turn()
            lines = encode(batch)
            block.append(lines)
            size += len(lines)
            rows += len(batch)
            read(len(batch), len(lines))
            if size >= BLOCK_SIZE:
                if compressing is not None:
                    await parts.write(await compressing)
                compressing = asyncio.create_task(gzip.compress(block))
                block, size = [], 0
        if compressing is not None:
            await parts.write(await compressing)
    finally:
        if compressing is not None:
            compressing.cancel()
            await asyncio.gather(compressing, return_exceptions=True)
    await parts.write(await gzip.finish(block))
    await parts.finish()
    return StoredFile(rows, gzip.size, gzip.sha256)

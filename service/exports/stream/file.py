"""The stream of one attempt: batches in, parts out, and the facts about the file."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from service.exports.stream.compress import GzipStream
from service.exports.stream.lines import Encoder
from service.exports.stream.parts import PartWriter
from service.model import StoredFile

BLOCK_SIZE = 512 * 1024
"""Bytes of lines that go into the thread at once: a hop costs 50 to 100 µs, a block of this size a millisecond."""
_BLOCKS = 2
"""Blocks in the thread at once. With one, lines wait for the thread to be woken again: a twentieth of an export's time."""


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
    loop do other things. Blocks are compressed while the next ones are read and encoded.
    """
    gzip = GzipStream()
    rows = 0
    block: list[bytes] = []
    size = 0
    compressing: deque[asyncio.Future[bytes]] = deque()
    try:
        async for batch in batches:
            await turn()
            lines = encode(batch)
            block.append(lines)
            size += len(lines)
            rows += len(batch)
            read(len(batch), len(lines))
            if size >= BLOCK_SIZE:
                while len(compressing) == _BLOCKS or (compressing and compressing[0].done()):
                    await parts.write(await compressing.popleft())
                compressing.append(gzip.compress(block))
                block, size = [], 0
        compressing.append(gzip.finish(block))
        while compressing:
            await parts.write(await compressing.popleft())
    finally:
        for chunk in compressing:
            chunk.cancel()
        await asyncio.gather(*compressing, return_exceptions=True)
    await parts.finish()
    return StoredFile(rows, gzip.size, gzip.sha256)

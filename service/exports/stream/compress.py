"""Blocks of lines become one gzip member (RFC 1952), hashed and counted on the way, in a thread.

A block is a list of pieces: putting them together is a copy, and belongs into the thread too.

isal's level 1 compresses this data several times as fast as zlib's level 6, to a size a tenth larger. It and the hash
release the interpreter's lock, so the next block is made meanwhile.

One thread serves all exports of a process: it compresses twice as fast as the event loop makes lines, and blocks given to
it one after the other are compressed in that order.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from isal import isal_zlib

_LEVEL = 1
_GZIP_WINDOW = 31
"""15 bits of window, plus 16 for gzip's header and trailer."""
_THREAD = ThreadPoolExecutor(1, thread_name_prefix="compress")


class GzipStream:
    """One gzip member in the making: its chunks are in the order of the calls, which may overlap."""

    def __init__(self) -> None:
        self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
        self._sha256 = hashlib.sha256()
        self.size = 0
        """Compressed bytes so far."""

    def compress(self, block: Sequence[bytes]) -> asyncio.Future[bytes]:
        """The next chunk of the member; often empty for a small block. The work begins at once."""
        return self._queue(block, last=False)

    def finish(self, block: Sequence[bytes] = ()) -> asyncio.Future[bytes]:
        """The last chunk: nothing may be compressed after it."""
        return self._queue(block, last=True)

    @property
    def sha256(self) -> str:
        """Of all chunks so far, hex."""
        return self._sha256.hexdigest()

    def _queue(self, block: Sequence[bytes], *, last: bool) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(_THREAD, self._take, block, last)

    def _take(self, block: Sequence[bytes], last: bool) -> bytes:
        chunk: bytes = self._compressor.compress(b"".join(block))
        if last:
            chunk += self._compressor.flush()
        self._sha256.update(chunk)
        self.size += len(chunk)
        return chunk

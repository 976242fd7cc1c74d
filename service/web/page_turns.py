"""Limits how many large pages are read and rendered at once: each takes some megabytes until it is bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_LARGE = 500
"""Rows from which a page waits for its turn. Smaller pages never wait."""
_AT_ONCE = 2


class PageTurns:
    """Turns for large pages."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def turn(self, rows: int) -> AsyncIterator[None]:
        """Read and render a page of up to `rows` rows inside the block."""
        if rows < _LARGE:
            yield
            return
        async with self._turns:
            yield

"""Leaves connections of a pool for others: one caller may use all but two of them at once."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta

_LEFT_FOR_OTHERS = 2

_caller: ContextVar[Hashable] = ContextVar("caller", default=None)


def act_for(caller: Hashable) -> None:
    """From now on the calls of this task count for `caller`: a key, or the Space that it proved."""
    _caller.set(caller)


class Shares:
    """The shares of a pool of `size` connections. Calls of tasks without a caller are not limited."""

    def __init__(self, size: int) -> None:
        self._most = max(1, size - _LEFT_FOR_OTHERS)
        self._turns: dict[Hashable, tuple[asyncio.Semaphore, int]] = {}
        """A semaphore for each caller in the pool, and how many of its calls hold it or wait for it."""

    @asynccontextmanager
    async def turn(self, timeout: timedelta) -> AsyncIterator[None]:
        """Wait at most `timeout` until the caller has a share free. Raises TimeoutError."""
        caller = _caller.get()
        if caller is None:
            yield
            return
        semaphore, users = self._turns.get(caller) or (asyncio.Semaphore(self._most), 0)
        self._turns[caller] = semaphore, users + 1
        try:
            if not semaphore.locked():
                await semaphore.acquire()  # does not wait, so it needs no timer
            else:
                async with asyncio.timeout(timeout.total_seconds()):
                    await semaphore.acquire()
            try:
                yield
            finally:
                semaphore.release()
        finally:
            semaphore, users = self._turns.pop(caller)
            if users > 1:
                self._turns[caller] = semaphore, users - 1

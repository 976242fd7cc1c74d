"""The event loop's time: requests go before exports, and what kept the loop from turning is measured."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

import structlog

_LONGEST_WAIT = 0.02
"""Seconds an export lets requests go before it: it slows down under many of them, and stops under none."""
_LONGEST_HOLD = 0.02
"""Seconds after which a fetch that is in line lets the next one begin, done or not: it may take a minute."""
_LIKELY_SECONDS = 3.0
"""Where two requests came within this time another is likely, for so long after the second: who follows an export looks
every two seconds. One that asks for an export is not enough: many exports are done before anybody looks.
"""
_TICK = 0.005
"""Seconds between two looks at the clock while exports run."""
_REST = 0.25
"""The same while none runs: then nothing but requests holds the loop."""
_REPORT_SECONDS = 60.0

log = structlog.get_logger()


class Turns:
    """Who goes first: a request takes the way, an export asks for it before each piece of work.

    A request passes a dozen times from process to process. Each time it waits for a processor, for 4 ms if all are taken,
    and then for whatever is ready on the loop. So while one is under way exports begin nothing; and while one is likely,
    fewer of them fetch at once than there are processors, as most of these are taken by the database's work for them. On two
    processors, where the 99th percentile of the status call is 3 ms idle, it is 9 and 13 ms beside two and four exports in
    place of 25 and 57, at ten calls a second or fifty, for a tenth of the rows a second.
    """

    def __init__(self, processors: int | None = None) -> None:
        self._requests = 0
        self._latest = -math.inf
        self._likely_until = 0.0
        self._line = asyncio.Semaphore(max(1, (processors or _processors()) - 1))
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is being answered inside the block; one that waits for something to happen must not be."""
        self._requests += 1
        now = time.monotonic()
        if now - self._latest < _LIKELY_SECONDS:
            self._likely_until = now + _LIKELY_SECONDS
        self._latest = now
        self._quiet.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._quiet.set()

    async def batch(self) -> None:
        """Awaited before each batch: the loop turns once and the requests under way are answered, for 20 ms at most."""
        await asyncio.sleep(0)
        await self._answered()

    @asynccontextmanager
    async def fetch(self) -> AsyncIterator[bool]:
        """The database reads for an export inside the block, after the requests under way. True if another one is likely:
        then it has waited for other exports, and is to read little.
        """
        likely = time.monotonic() < self._likely_until
        async with self._in_line() if likely else nullcontext():
            await self._answered()
            yield likely

    @asynccontextmanager
    async def _in_line(self) -> AsyncIterator[None]:
        await self._line.acquire()
        held = True

        def leave() -> None:
            nonlocal held
            if held:
                held = False
                self._line.release()

        overrun = asyncio.get_running_loop().call_later(_LONGEST_HOLD, leave)
        try:
            yield
        finally:
            overrun.cancel()
            leave()

    async def _answered(self) -> None:
        if self._requests:
            try:
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self._quiet.wait()
            except TimeoutError:
                pass


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LoopLag:
    """How late the loop came back to a task that slept: what every request waits, too. Measured while exports run."""

    def __init__(self) -> None:
        self._lags: list[float] = []

    async def watch(self, busy: Callable[[], bool]) -> None:
        """Measure while `busy` and log `loop_lag` every minute, and at the end; until cancelled."""
        reported = time.monotonic()
        try:
            while True:
                if not busy():
                    await asyncio.sleep(_REST)
                    continue
                before = time.perf_counter()
                await asyncio.sleep(_TICK)
                self._lags.append(max(0.0, time.perf_counter() - before - _TICK))
                if time.monotonic() - reported > _REPORT_SECONDS:
                    self.report()
                    reported = time.monotonic()
        finally:
            self.report()

    def report(self) -> None:
        """Log the longest and the 99th percentile since the last report, in milliseconds; nothing if none was measured."""
        lags, self._lags = sorted(self._lags), []
        if lags:
            percentile = lags[math.ceil(len(lags) * 0.99) - 1]
            log.info("loop_lag", longest_ms=round(lags[-1] * 1000, 1), p99_ms=round(percentile * 1000, 1))

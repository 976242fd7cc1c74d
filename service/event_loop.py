"""The event loop's time: requests go before exports, and what kept the loop from turning is measured."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

_LONGEST_WAIT = 0.02
"""Seconds an export lets requests go before it: it slows down under many of them, and stops under none."""
_FREQUENT = 4
_BUSY_SECONDS = 0.1
"""Requests are frequent where four come within this time, and for so long after the fourth. One consumer who looks twenty
times a second is not what exports slow down for."""
_PAUSE = 0.002
"""Seconds the exports of a process leave the processor before each batch while requests are frequent. A request passes a
dozen times from process to process and waits for a processor each time, for 4 ms if it is taken. They pause one after the
other: when each paused for itself, four exports kept the database's processes as busy as without. The 99th percentile of the
status call on two processors, idle 3 ms: 26 and 50 ms beside two and four exports without pauses, 16 and 31 ms when each
paused for itself, 12 and 17 ms so, for two thirds of the rows a second."""
_TICK = 0.005
"""Seconds between two looks at the clock while exports run."""
_REST = 0.25
"""The same while none runs: then nothing but requests holds the loop."""
_REPORT_SECONDS = 60.0

log = structlog.get_logger()


class Turns:
    """Who goes first: a request takes the way, an export asks for it before each piece of work.

    A request needs the loop for a dozen short moments, and waits for whatever is ready before each of them. With exports
    among that, each moment would cost it a batch of every export.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._latest: deque[float] = deque(maxlen=_FREQUENT)
        self._frequent_until = 0.0
        self._line = asyncio.Lock()
        self._quiet = asyncio.Event()
        self._quiet.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request is being answered inside the block; one that waits for something to happen must not be."""
        self._requests += 1
        now = time.monotonic()
        self._latest.append(now)
        if len(self._latest) == _FREQUENT and now - self._latest[0] < _BUSY_SECONDS:
            self._frequent_until = now + _BUSY_SECONDS
        self._quiet.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._quiet.set()

    async def export(self) -> None:
        """Let the loop turn once, and the requests under way be answered, for 20 ms at most."""
        if time.monotonic() < self._frequent_until:
            async with self._line:
                await asyncio.sleep(_PAUSE)
        else:
            await asyncio.sleep(0)
        if self._requests:
            try:
                async with asyncio.timeout(_LONGEST_WAIT):
                    await self._quiet.wait()
            except TimeoutError:
                pass


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

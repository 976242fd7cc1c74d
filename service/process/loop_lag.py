"""Event-loop lag: how late the event loop returns to a task that slept, which is what every request waits as well."""

import asyncio
import math
import time
from collections.abc import Callable

import structlog

_TICK = 0.005
"""Seconds between two measurements while exports run."""
_REST = 0.25
"""Seconds between two checks whether an export runs, while none does."""
_REPORT_SECONDS = 60.0

log = structlog.get_logger()


class LoopLag:
    """Measures event-loop lag while exports run."""

    def __init__(self) -> None:
        self._lags: list[float] = []

    async def watch(self, busy: Callable[[], bool]) -> None:
        """Measure while `busy` returns True; log `loop_lag` every minute and when cancelled. Runs until cancelled."""
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
        """Log the maximum and the 99th percentile since the last report, in milliseconds; nothing without measurements."""
        lags, self._lags = sorted(self._lags), []
        if lags:
            percentile = lags[math.ceil(len(lags) * 0.99) - 1]
            log.info("loop_lag", longest_ms=round(lags[-1] * 1000, 1), p99_ms=round(percentile * 1000, 1))

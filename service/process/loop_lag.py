"""Event-loop lag: how late the event loop returns to a task that slept, which is what every request waits as well."""

import asyncio
import time
from collections.abc import Callable

import structlog

_TICK = 0.005
"""Seconds between two measurements while exports run."""
_REST = 0.25
"""Seconds between two measurements while no export runs."""
_REPORT_SECONDS = 60.0

log = structlog.get_logger()


class LoopLag:
    """Measures event-loop lag. `observe` gets every measurement in seconds."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._longest = 0.0
        """The longest lag while exports ran, since the last report."""

    async def watch(self, busy: Callable[[], bool]) -> None:
        """Measure until cancelled. Log the longest lag while `busy` returned True, every minute and when cancelled."""
        reported = time.monotonic()
        try:
            while True:
                exports_run = busy()
                pause = _TICK if exports_run else _REST
                before = time.perf_counter()
                await asyncio.sleep(pause)
                lag = max(0.0, time.perf_counter() - before - pause)
                self._observe(lag)
                if exports_run:
                    self._longest = max(self._longest, lag)
                if time.monotonic() - reported > _REPORT_SECONDS:
                    self.report()
                    reported = time.monotonic()
        finally:
            self.report()

    def report(self) -> None:
        """Log the longest lag since the last report, in milliseconds; nothing if no export ran."""
        longest, self._longest = self._longest, 0.0
        if longest:
            log.info("loop_lag", longest_ms=round(longest * 1000, 1))

"""Loops that must not stop, and a watchdog that notices a step that never returns."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from service.errors import DatabaseUnavailable
from service.failures import ExportFailure

_LONGEST_FIRST_PAUSE = timedelta(minutes=5)
"""Latest first run of an infrequent task after a start: otherwise frequent restarts would postpone it forever."""
_SPREAD = 0.3
"""Pauses vary by ±30 %, so that replicas rarely collide."""

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """A step that every replica repeats with a pause of `every` ± 30 %."""

    name: str
    step: Callable[[], Awaitable[object]]
    every: timedelta


def boot_clock() -> float:
    """Seconds that also pass while the process or the machine is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Watchdog:
    """Remembers which steps are running and since when."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """The step `name` runs inside the block."""
        self._since[name] = boot_clock()
        try:
            yield
        finally:
            del self._since[name]

    def overdue(self, limit: timedelta) -> str | None:
        """A step that has been running for longer than `limit`, or None."""
        started_before = boot_clock() - limit.total_seconds()
        return next((name for name, since in self._since.items() if since < started_before), None)


async def repeat(task: PeriodicTask) -> None:
    """Run the task until cancelled. The first run comes after one pause, and after at most 5 minutes."""
    pause = min(task.every, _LONGEST_FIRST_PAUSE)
    while True:
        await asyncio.sleep(pause.total_seconds() * random.uniform(1 - _SPREAD, 1 + _SPREAD))
        await _logged(task.name, task.step)
        pause = task.every


async def repeat_exactly(name: str, step: Callable[[], Awaitable[object]], every: timedelta) -> None:
    """Pause for `every` and run the step, until cancelled: a `repeat` without random pauses."""
    while True:
        await asyncio.sleep(every.total_seconds())
        await _logged(name, step)


async def uncancelled(work: Awaitable[T]) -> T:
    """Await `work`, turning a stray CancelledError into a RuntimeError: only cancelling its own task may end a loop."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled although its task was not") from error


async def _logged(name: str, step: Callable[[], Awaitable[object]]) -> None:
    try:
        await uncancelled(step())
    except DatabaseUnavailable as error:
        log.warning("loop_waits_for_database", loop=name, detail=error.detail)
    except ExportFailure as error:
        log.warning("loop_waits_for_store", loop=name, error_code=error.code, detail=error.detail)
    except Exception:
        log.exception("loop_step_failed", loop=name)

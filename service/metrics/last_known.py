"""A value that is read from the database now and then, however often it is asked for."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import structlog

from service.errors import ServiceError

_SHARE = 0.02
"""Largest share of the time that reading may take: a reading that took 200 ms is repeated after 10 s at the earliest."""
_PATIENCE = timedelta(seconds=1)
"""Longest that a caller waits for a reading. It continues in the background."""

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known(Generic[T]):
    """The last value that was read, None before the first; its age in seconds; and the error of the last reading, if any."""

    value: T | None
    age: float
    error: str | None


class LastKnown(Generic[T]):
    """Calls `read` at most once in `every`. An error keeps the last value. All callers wait for the same reading."""

    def __init__(self, read: Callable[[], Awaitable[T]], *, every: timedelta) -> None:
        self._read = read
        self._every = every.total_seconds()
        self._value: T | None = None
        self._read_at = time.monotonic()
        self._error: str | None = None
        self._next = 0.0
        self._started: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def get(self) -> Known[T]:
        """The newest value that is there within a second."""
        if time.monotonic() >= self._next:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._renew())
            await asyncio.wait({self._reading}, timeout=_PATIENCE.total_seconds())
        return self.known

    @property
    def known(self) -> Known[T]:
        """The last value, without a reading."""
        now = time.monotonic()
        late = self._started is not None and now - self._started > _PATIENCE.total_seconds()
        return Known(self._value, now - self._read_at, self._error or ("The database does not respond." if late else None))

    async def stop(self) -> None:
        """End a reading that is in progress."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _renew(self) -> None:
        self._started = started = time.monotonic()
        try:
            self._value = await self._read()
        except ServiceError as error:
            self._error = error.message
        except Exception:
            log.exception("figures_not_read")
            self._error = "The figures could not be read; the log has the error."
        else:
            self._error, self._read_at = None, started
        finally:
            self._started = None
        seconds = time.monotonic() - started
        self._next = started + seconds + max(self._every, 0 if self._error else seconds / _SHARE)

"""Keeping a claim alive, and knowing when it is over.

The database owns the truth: a claim holds while its row names it. A worker hears of that only through answers, so it keeps a
local time until which it may believe the last one: the lease's duration, counted from *before* that renewal was sent.
A renewal that fails says nothing about the claim; the work goes on until the local time is reached. A renewal that is
answered without the claim says that it is lost. The local clock counts the time a process was stopped, so one that is
continued after its lease knows it before it does anything else; what it might still send is refused by the fence.
"""

import asyncio
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

import structlog

from service.errors import DatabaseUnavailable
from service.failpoints import failpoint
from service.model import Claim
from service.postgres.claims import Claims, Progress, Renewal

T = TypeVar("T")
log = structlog.get_logger()


class Ending(Enum):
    """Why the work on a claim was ended from outside."""

    LOST = "lost"
    """The claim is not ours any more, or may not be."""
    STALLED = "stalled"
    """It got nowhere for too long."""
    SHUTDOWN = "shutdown"
    """This process is to end."""
    CANCELLED = "cancelled"
    """The export was cancelled by a request to this process; others learn it as LOST."""


class LeaseEnded(Exception):
    """The work on a claim was ended from outside."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        super().__init__(ending.value)


def clock() -> float:
    """Seconds that go on while the process, or the machine, is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """One claim held by this process."""

    def __init__(self, claim: Claim, believed_until: float) -> None:
        self.claim = claim
        self.believed_until = believed_until
        self.progress = Progress()
        self.ending: Ending | None = None
        self.ended_at: float | None = None
        self._work: asyncio.Task[Any] | None = None
        self._seen = self._state()
        self._seen_at = clock()

    @property
    def believed(self) -> bool:
        """Whether the claim may still be taken for ours."""
        return self.ending not in (Ending.LOST, Ending.CANCELLED) and clock() < self.believed_until

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work while the claim is ours. Raises LeaseEnded, or what the work raises.

        Work that is done before it notices the end counts as done: whether its result still matters is for the fence to say.
        """
        self._work = task = asyncio.create_task(work)
        if self.ending is not None:
            task.cancel()
        try:
            while not task.done():
                if self.ending is None and not self.believed:
                    self.end(Ending.LOST)
                remaining = self.believed_until - clock() if self.ending is None else None
                await asyncio.wait({task}, timeout=remaining)
            if self.ending is not None and (task.cancelled() or task.exception() is not None):
                raise LeaseEnded(self.ending)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def end(self, ending: Ending) -> None:
        """End the work, once: the first reason stays. Work that finds out itself is left to clean up."""
        if self.ending is not None:
            return
        self.ending, self.ended_at = ending, clock()
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()

    def stalled_for(self) -> float:
        """Seconds since rows, bytes or phase last changed."""
        if self._state() != self._seen:
            self._seen, self._seen_at = self._state(), clock()
        return clock() - self._seen_at

    def _state(self) -> tuple[str, int, int]:
        return self.progress.phase, self.progress.rows_read, self.progress.bytes_stored


class Leases:
    """All claims of this process, renewed together every quarter of a lease."""

    def __init__(self, claims: Claims, *, duration: timedelta, no_progress: timedelta) -> None:
        self._claims = claims
        self._duration = duration
        self._no_progress = no_progress.total_seconds()
        self._held: dict[UUID, Lease] = {}

    @property
    def interval(self) -> float:
        """Seconds between renewals."""
        return self._duration.total_seconds() / 4

    @contextmanager
    def hold(self, claim: Claim, *, sent: float) -> Iterator[Lease]:
        """Keep a claim alive inside the block. `sent`: the clock before the claim was sent."""
        lease = Lease(claim, sent + self._duration.total_seconds())
        self._held[claim.claim_id] = lease
        try:
            yield lease
        finally:
            del self._held[claim.claim_id]

    def end(self, claim_id: UUID, ending: Ending) -> None:
        """End the work on a claim, if this process holds it."""
        if lease := self._held.get(claim_id):
            lease.end(ending)

    def end_all(self, ending: Ending) -> None:
        """End the work on every claim."""
        for lease in self._held.values():
            lease.end(ending)

    def hanging(self, seconds: float) -> bool:
        """Whether an attempt was ended so long ago, and its lease with it, and is not done yet."""
        limit = clock() - seconds - self._duration.total_seconds()
        return any(lease.ended_at is not None and lease.ended_at < limit for lease in self._held.values())

    async def renew(self) -> None:
        """One round. Raises DatabaseUnavailable.

        An attempt that got nowhere for too long is ended, to be tried again, and not renewed any more: were it to hang while
        it ends, its lease would run out like that of a dead process.
        """
        for lease in self._held.values():
            if lease.ending is None and lease.stalled_for() > self._no_progress:
                lease.end(Ending.STALLED)
        await self._renew([lease for lease in self._held.values() if lease.ending in (None, Ending.SHUTDOWN)])

    async def confirm(self, lease: Lease) -> None:
        """Make sure of the claim before a step that cannot be undone cheaply. Raises LeaseEnded where it is lost."""
        try:
            await self._renew([lease])
        except DatabaseUnavailable:
            log.warning("lease_not_confirmed", export_id=lease.claim.export_id)
        if not lease.believed:
            raise LeaseEnded(Ending.LOST)

    async def _renew(self, leases: list[Lease]) -> None:
        if not leases:
            return
        sent = clock()
        await failpoint("before_renew")
        progress = {lease.claim.claim_id: lease.progress for lease in leases}
        answer = await self._claims.renew(progress, lease=self._duration)
        await failpoint("renewed")
        for lease in leases:
            renewal = answer.get(lease.claim.claim_id, Renewal.LOST)
            if renewal is Renewal.RENEWED:
                lease.believed_until = sent + self._duration.total_seconds()
            elif renewal is Renewal.LOST:
                lease.end(Ending.LOST)

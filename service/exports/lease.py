"""Keeps claims alive, and notices when a claim is lost.

The database decides who owns an export: a claim holds while its row names it. A worker learns this only from responses, so
it also keeps a local deadline until which it may believe the last response: the lease's duration, measured from *before*
the renewal was sent. A failed renewal says nothing about ownership; the work continues until the local deadline. A response
without the claim means that the claim is lost. The local clock also counts the time a process was stopped, so a process
that is resumed after its lease notices this before it does anything else. The claim check in SQL refuses everything it may
still send.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

import structlog

from service.errors import DatabaseUnavailable
from service.exports.periodic import boot_clock
from service.failpoints import failpoint
from service.model import Claim
from service.postgres.claims import Claims, Progress, Renewal

RENEWALS_PER_LEASE = 4
"""Three renewals in a row may fail before the lease expires."""

T = TypeVar("T")
log = structlog.get_logger()


class Ending(Enum):
    """Why the work on a claim was stopped from outside."""

    LOST = "lost"
    """The claim is no longer ours, or may not be."""
    STALLED = "stalled"
    """The attempt made no progress for too long."""
    SHUTDOWN = "shutdown"
    """This process is shutting down."""
    CANCELLED = "cancelled"
    """A request to this process cancelled the export; other processes see it as LOST."""


class LeaseEnded(Exception):
    """The work on a claim was stopped from outside."""

    def __init__(self, ending: Ending) -> None:
        self.ending = ending
        super().__init__(ending.value)


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
        self._seen_at = boot_clock()

    @property
    def believed(self) -> bool:
        """Whether this process may still believe that the claim is its own."""
        return self.ending not in (Ending.LOST, Ending.CANCELLED) and boot_clock() < self.believed_until

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the work while the claim is ours. Raises LeaseEnded, or what the work raises.

        If the work finishes before the cancellation reaches it, its result is returned; the claim check in SQL decides
        whether it still counts.
        """
        self._work = task = asyncio.create_task(work)
        if self.ending is not None:
            task.cancel()
        try:
            while not task.done():
                if self.ending is None and not self.believed:
                    self.end(Ending.LOST)
                remaining = self.believed_until - boot_clock() if self.ending is None else None
                await asyncio.wait({task}, timeout=remaining)
            if self.ending is not None and (task.cancelled() or task.exception() is not None):
                raise LeaseEnded(self.ending)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    def end(self, ending: Ending) -> None:
        """Cancel the work; only the first reason is kept. Work that calls this itself is not cancelled: it cleans up."""
        if self.ending is not None:
            return
        self.ending, self.ended_at = ending, boot_clock()
        if self._work is not None and self._work is not asyncio.current_task():
            self._work.cancel()

    def stalled_for(self) -> timedelta:
        """How long ago rows, bytes or phase last changed."""
        if self._state() != self._seen:
            self._seen, self._seen_at = self._state(), boot_clock()
        return timedelta(seconds=boot_clock() - self._seen_at)

    def _state(self) -> tuple[str, int, int]:
        return self.progress.phase, self.progress.rows_read, self.progress.bytes_stored


class Leases:
    """All claims of this process, renewed together four times per lease."""

    def __init__(self, claims: Claims, *, duration: timedelta, no_progress: timedelta) -> None:
        self._claims = claims
        self._duration = duration
        self._no_progress = no_progress
        self._held: dict[UUID, Lease] = {}

    @property
    def interval(self) -> timedelta:
        """Pause between two renewals."""
        return self._duration / RENEWALS_PER_LEASE

    def phases(self) -> list[str]:
        """The phase of each attempt of this process."""
        return [lease.progress.phase for lease in self._held.values()]

    @contextmanager
    def hold(self, claim: Claim, *, sent: float) -> Iterator[Lease]:
        """Keep a claim alive inside the block. `sent` is the boot clock before the claim was sent."""
        lease = Lease(claim, sent + self._duration.total_seconds())
        self._held[claim.claim_id] = lease
        try:
            yield lease
        finally:
            del self._held[claim.claim_id]

    def end(self, claim_id: UUID, ending: Ending) -> None:
        """Stop the work on a claim, if this process holds it."""
        if lease := self._held.get(claim_id):
            lease.end(ending)

    def end_all(self, ending: Ending) -> None:
        """Stop the work on every claim."""
        for lease in self._held.values():
            lease.end(ending)

    def hanging(self, limit: timedelta) -> bool:
        """Whether some attempt is still running `limit` after it was told to stop and its lease ran out."""
        latest = boot_clock() - (limit + self._duration).total_seconds()
        return any(lease.ended_at is not None and lease.ended_at < latest for lease in self._held.values())

    async def renew(self) -> None:
        """Renew every claim once. Raises DatabaseUnavailable.

        An attempt that made no progress for too long is stopped, to be retried, and no longer renewed: should it hang while
        it stops, its lease expires like that of a dead process.
        """
        for lease in self._held.values():
            if lease.ending is None and lease.stalled_for() > self._no_progress:
                lease.end(Ending.STALLED)
        await self._renew([lease for lease in self._held.values() if lease.ending in (None, Ending.SHUTDOWN)])

    async def confirm(self, lease: Lease) -> None:
        """Make sure of the claim before a step that is expensive to undo. Raises LeaseEnded if it is lost."""
        try:
            await self._renew([lease])
        except DatabaseUnavailable:
            log.warning("lease_not_confirmed", export_id=lease.claim.export_id)
        if not lease.believed:
            raise LeaseEnded(Ending.LOST)

    async def _renew(self, leases: list[Lease]) -> None:
        if not leases:
            return
        sent = boot_clock()
        await failpoint("before_renew")
        progress = {lease.claim.claim_id: lease.progress for lease in leases}
        renewals = await self._claims.renew(progress, lease=self._duration)
        await failpoint("renewed")
        for lease in leases:
            renewal = renewals.get(lease.claim.claim_id, Renewal.LOST)
            if renewal is Renewal.RENEWED:
                lease.believed_until = sent + self._duration.total_seconds()
            elif renewal is Renewal.LOST:
                lease.end(Ending.LOST)

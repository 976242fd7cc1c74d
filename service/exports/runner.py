"""The in-process job runner: it claims exports while it has free slots, and runs the periodic tasks.

It keeps no state that matters: everything it forgets is in the job table, where any replica finds it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from service import events
from service.errors import DatabaseUnavailable
from service.exports.attempt import Attempts
from service.exports.lease import Ending, Leases
from service.exports.periodic import PeriodicTask, Watchdog, boot_clock, repeat, repeat_exactly, uncancelled
from service.failpoints import failpoint
from service.model import Claim
from service.postgres.claims import Claims

_STUCK_AFTER = timedelta(minutes=1)
"""Far beyond the deadline of any database call, and of the cleanup of an attempt that was stopped."""
_POLL_SPREAD = 0.2

log = structlog.get_logger()


AroundAttempt = Callable[[Claim], AbstractContextManager[object]]


def in_logs_of(claim: Claim) -> AbstractContextManager[object]:
    """Add the trace id of the export to every log line inside the block."""
    return events.in_logs(claim.trace)


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """`slots` exports run at once in this process, `space_slots` of one Space in all processes together."""

    worker: str
    """The name of this process for operators; it is never compared."""
    slots: int
    space_slots: int
    lease: timedelta
    poll: timedelta
    """Pause between two polls for exports that other processes queued."""
    rescue: timedelta
    """Pause between two searches for expired leases."""
    around_attempt: AroundAttempt = in_logs_of
    """What each attempt runs in."""


class Runner:
    """Claims exports while there are free slots. `wake` announces an export queued here; polling finds the others.

    `rescue` requeues exports whose lease expired and returns True if it found any.
    """

    def __init__(
        self,
        claims: Claims,
        leases: Leases,
        attempts: Attempts,
        rescue: Callable[[], Awaitable[bool]],
        periodic_tasks: Sequence[PeriodicTask],
        options: RunnerOptions,
    ) -> None:
        self._claims = claims
        self._leases = leases
        self._attempts = attempts
        self._rescue_exports = rescue
        self._periodic_tasks = periodic_tasks
        self._options = options
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._watchdog = Watchdog()
        self._paused = False
        self.started = False
        """Whether `run` has begun: before that there is nothing to wait for."""

    def wake(self) -> None:
        """Look for work at once."""
        self._work.set()

    async def run(self) -> None:
        """Work until `stop` is called and every attempt has recorded its outcome or was handed back."""
        self.started = True
        loops = [
            asyncio.create_task(repeat_exactly("renew", self._renew, self._leases.interval)),
            asyncio.create_task(repeat(PeriodicTask("rescue", self._rescue, self._options.rescue))),
            *(asyncio.create_task(repeat(each)) for each in self._periodic_tasks),
        ]
        try:
            while not self._stopping.is_set():
                await self._claim_one()
            while self._running:
                await asyncio.wait(self._running)
        finally:
            for task in [*loops, *self._running]:
                task.cancel()
            await asyncio.gather(*loops, *self._running, return_exceptions=True)

    def stop(self) -> None:
        """Claim nothing more; running attempts continue."""
        self._stopping.set()
        self.wake()

    def hand_back(self) -> None:
        """Stop the running attempts and give their exports back, so that another process can claim them at once."""
        self._leases.end_all(Ending.SHUTDOWN)

    def pause(self) -> None:
        """Claim and rescue nothing, and give the running exports back, until `resume` is called."""
        self._paused = True
        self.hand_back()

    def resume(self) -> None:
        """Work again after `pause`."""
        self._paused = False
        self.wake()

    def cancel(self, claim_id: UUID) -> None:
        """Stop the attempt with this claim if this process runs it, and look for work for its slot."""
        self._leases.end(claim_id, Ending.CANCELLED)
        self.wake()

    @property
    def running(self) -> int:
        """How many attempts run in this process."""
        return len(self._running)

    def phases(self) -> list[str]:
        """The phase of each attempt that runs in this process."""
        return self._leases.phases()

    @property
    def stuck(self) -> str | None:
        """A step that did not return long after its deadline, so that only a restart helps; None if there is none."""
        overdue = self._watchdog.overdue(_STUCK_AFTER)
        return overdue or ("attempt" if self._leases.hanging(_STUCK_AFTER) else None)

    async def _claim_one(self) -> None:
        """Wait for a free slot, claim an export and start it, or wait for work."""
        self._work.clear()
        if self._paused or not self._has_room():
            await self._work.wait()
            return
        sent = boot_clock()
        claim = await self._claim()
        if claim is None:
            await self._wait_for_work()
            return
        events.emit(events.ExportClaimed(claim))
        task = asyncio.create_task(self._run_attempt(claim, sent))
        self._running[task] = claim
        task.add_done_callback(self._ended)

    async def _run_attempt(self, claim: Claim, sent: float) -> None:
        with self._options.around_attempt(claim):
            await self._attempts.run(claim, sent=sent)

    async def _claim(self) -> Claim | None:
        """The next claim, or None. An error is logged; the loop then waits as if there were no work."""
        try:
            return await self._send_claim()
        except DatabaseUnavailable as error:
            log.warning("claim_failed", detail=error.detail)
        except Exception:
            log.exception("claim_crashed")
        return None

    async def _send_claim(self) -> Claim | None:
        await failpoint("before_claim")
        options = self._options
        with self._watchdog.step("claim"):
            claim = await uncancelled(
                self._claims.claim(
                    options.worker, lease=options.lease, space_slots=options.space_slots, alone=not self._running
                )
            )
        if claim is None:
            return None
        await failpoint("claimed")
        if self._stopping.is_set() or self._paused:
            # Claimed after the shutdown or the pause began, so `hand_back` has not seen it.
            if await self._claims.hand_back(claim):
                events.emit(events.ExportHandedBack(claim))
            return None
        return claim

    def _has_room(self) -> bool:
        return len(self._running) < self._options.slots and not any(claim.alone for claim in self._running.values())

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and task.exception() is not None:
            log.error("attempt_not_recorded", exc_info=task.exception())
        self.wake()

    async def _wait_for_work(self) -> None:
        spread = random.uniform(1 - _POLL_SPREAD, 1 + _POLL_SPREAD)
        try:
            async with asyncio.timeout(self._options.poll.total_seconds() * spread):
                await self._work.wait()
        except TimeoutError:
            pass

    async def _renew(self) -> None:
        with self._watchdog.step("renew"):
            await self._leases.renew()

    async def _rescue(self) -> None:
        if self._paused:
            return
        with self._watchdog.step("rescue"):
            found = await self._rescue_exports()
        if found:
            self.wake()

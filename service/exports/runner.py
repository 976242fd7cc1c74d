"""The in-process job runner: free slots, wake-ups, and the loops that must not stop.

It holds no state that matters: whatever it forgets is in the table, and any replica finds it there.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import structlog

from service.errors import DatabaseUnavailable, ExportFailure
from service.exports.attempt import Attempts
from service.exports.lease import Ending, Leases, clock
from service.failpoints import failpoint
from service.model import Claim
from service.postgres.claims import Claims

_FIRST_CHORE_SECONDS = 300.0
"""Chores that are done rarely come so soon after a start: frequent restarts must not put them off for ever."""

_STUCK_SECONDS = 60.0
"""Far beyond the deadline of any call to the database, and of what an attempt does when it was ended."""

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Times in seconds."""

    slots: int
    space_slots: int
    lease: timedelta
    poll: float
    rescue: float


@dataclass(frozen=True, slots=True)
class PeriodicTask:
    """Something every replica does now and then; `seconds` apart, spread by a third so that replicas rarely meet."""

    name: str
    step: Callable[[], Awaitable[object]]
    seconds: float


class Runner:
    """Claims exports while there are free slots. `wake` says that a job was queued here; others are found by the poll."""

    def __init__(
        self,
        claims: Claims,
        leases: Leases,
        attempts: Attempts,
        rescue: Callable[[], Awaitable[bool]],
        chores: Sequence[PeriodicTask],
        *,
        worker: str,
        limits: RunnerLimits,
    ) -> None:
        self._claims = claims
        self._leases = leases
        self._attempts = attempts
        self._rescue_exports = rescue
        self._chores = chores
        self._worker = worker
        self._limits = limits
        self._running: dict[asyncio.Task[None], Claim] = {}
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._steps: dict[str, float] = {}
        self.started = False
        """Whether `run` has begun: before that there is nothing to wait for."""

    def wake(self) -> None:
        """Look for work at once."""
        self._work.set()

    async def run(self) -> None:
        """Work until `stop` has been called and everything is settled or handed back."""
        self.started = True
        periodic = [
            asyncio.create_task(_forever("renew", self._renew, self._leases.interval, spread=0)),
            asyncio.create_task(_forever("rescue", self._rescue, self._limits.rescue, spread=0.3)),
            *(asyncio.create_task(_often(each)) for each in self._chores),
        ]
        try:
            while not self._stopping.is_set():
                await self._claim_one()
            await self._settled()
        finally:
            for task in [*periodic, *self._running]:
                task.cancel()
            await asyncio.gather(*periodic, *self._running, return_exceptions=True)

    def stop(self) -> None:
        """Claim nothing any more; what runs goes on."""
        self._stopping.set()
        self.wake()

    def hand_back(self) -> None:
        """End what runs and give it back, for another process to claim at once."""
        self._leases.end_all(Ending.SHUTDOWN)

    def cancel(self, claim_id: UUID) -> None:
        """An export was cancelled: end its attempt if it is ours, and see who can have its place."""
        self._leases.end(claim_id, Ending.CANCELLED)
        self.wake()

    @property
    def running(self) -> int:
        """Exports this process works on now."""
        return len(self._running)

    @property
    def stuck(self) -> str | None:
        """What has not come back long after its deadline, so that only a restart can mend it; None where all is well."""
        overdue = clock() - _STUCK_SECONDS
        for name, begun in self._steps.items():
            if begun < overdue:
                return name
        return "attempt" if self._leases.hanging(_STUCK_SECONDS) else None

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._steps[name] = clock()
        try:
            yield
        finally:
            del self._steps[name]

    async def _settled(self) -> None:
        while self._running:
            await asyncio.wait(self._running)

    async def _claim_one(self) -> None:
        """Wait for a free slot, claim, or wait for work. An error is logged and the loop goes on after a pause."""
        self._work.clear()
        if not self._has_room():
            await self._work.wait()
            return
        sent = clock()
        try:
            await failpoint("before_claim")
            with self._step("claim"):
                claim = await _own(
                    self._claims.claim(
                        self._worker,
                        lease=self._limits.lease,
                        space_slots=self._limits.space_slots,
                        alone=not self._running,
                    )
                )
            if claim is not None:
                await failpoint("claimed")
            if claim is not None and self._stopping.is_set():
                # Asked for before the end was: whoever hands back what runs does not know of it.
                await self._claims.hand_back(claim)
                return
        except DatabaseUnavailable as error:
            log.warning("claim_failed", detail=error.detail)
            claim = None
        except Exception:
            log.exception("claim_crashed")
            claim = None
        if claim is not None:
            self._start(claim, sent)
        else:
            await self._wait_for_work()

    def _has_room(self) -> bool:
        return len(self._running) < self._limits.slots and not any(claim.alone for claim in self._running.values())

    def _start(self, claim: Claim, sent: float) -> None:
        log.info(
            "export_claimed",
            export_id=claim.export_id,
            space_id=claim.space_id,
            attempt=claim.attempt,
            claim_id=str(claim.claim_id),
        )
        task = asyncio.create_task(self._attempts.run(claim, sent=sent))
        self._running[task] = claim
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and task.exception() is not None:
            log.error("attempt_not_settled", exc_info=task.exception())
        self.wake()

    async def _wait_for_work(self) -> None:
        try:
            async with asyncio.timeout(self._limits.poll * random.uniform(0.8, 1.2)):
                await self._work.wait()
        except TimeoutError:
            pass

    async def _renew(self) -> None:
        with self._step("renew"):
            await self._leases.renew()

    async def _rescue(self) -> None:
        with self._step("rescue"):
            rescued = await self._rescue_exports()
        if rescued:
            self.wake()


async def _own(work: Awaitable[T]) -> T:
    """Await work of a loop. That something in it was cancelled is an error of the work: only this task's end ends a loop."""
    try:
        return await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("cancelled by nobody") from error


async def _often(chore: PeriodicTask) -> None:
    first = min(chore.seconds, _FIRST_CHORE_SECONDS)
    await _forever(chore.name, chore.step, chore.seconds, spread=0.3, first=first)


async def _forever(
    name: str, step: Callable[[], Awaitable[object]], seconds: float, *, spread: float, first: float | None = None
) -> None:
    """Repeat a step for as long as the process lives: nothing but cancellation ends it."""
    pause = seconds if first is None else first
    while True:
        await asyncio.sleep(pause * random.uniform(1 - spread, 1 + spread))
        pause = seconds
        try:
            await _own(step())
        except DatabaseUnavailable as error:
            log.warning("loop_waits_for_database", loop=name, detail=error.detail)
        except ExportFailure as error:
            log.warning("loop_waits_for_store", loop=name, error_code=error.code, detail=error.detail)
        except Exception:
            log.exception("loop_step_failed", loop=name)

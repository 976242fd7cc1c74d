"""Requests that wait for the end of an export (contract: `Prefer: wait=N`)."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from service import events
from service.exports.priority import RequestPriority
from service.model import ExportJob
from service.postgres.export_jobs import ExportJobs

_PER_SPACE = 64
"""Twice the status calls that the default rate limit allows a Space within the longest wait."""
_PER_PROCESS = 512
"""Half of the 1,024 descriptors that many systems allow a process: each waiter holds a connection."""


@dataclass(frozen=True, slots=True)
class Wait:
    """A client's wish to wait at most `seconds` for the end of an export. `disconnected` tells whether it still listens."""

    seconds: int
    disconnected: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Waited:
    """An export after a wait. `applied` is False if the wait was refused or cut short, so that the client must poll."""

    job: ExportJob
    applied: bool


@dataclass(eq=False, slots=True)
class _Waiter:
    disconnected: Callable[[], bool]
    woken: "asyncio.Future[bool]"
    """True if the export ended, False if the wait was cut short."""

    def wake(self, *, ended: bool) -> None:
        if not self.woken.done():
            self.woken.set_result(ended)


class Waiters:
    """The waiting requests of this process.

    An end in this process wakes them by its event. All other ends (in another process, or by an operator's SQL) are found by
    `poll`, which a periodic task calls every second. Beyond `per_space` or `per_process` waiters nobody waits: the response
    comes at once. A waiter does not count as a request in flight, because exports would be slowed down by it.
    """

    def __init__(
        self, jobs: ExportJobs, priority: RequestPriority, *, per_space: int = _PER_SPACE, per_process: int = _PER_PROCESS
    ) -> None:
        self._jobs = jobs
        self._priority = priority
        self._per_space = per_space
        self._per_process = per_process
        self._of_export: defaultdict[int, set[_Waiter]] = defaultdict(set)
        self._of_space: Counter[int] = Counter()
        self._stopping = False

    def __len__(self) -> int:
        """How many requests wait."""
        return self._of_space.total()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Wake waiters by the events of this process inside the block."""
        unsubscribe = events.subscribe(self._on_event)
        try:
            yield
        finally:
            unsubscribe()

    async def wait(self, space_id: int, export_id: int, wait: Wait, read: Callable[[], Awaitable[ExportJob]]) -> Waited:
        """Wait until the export ends, and return it as `read` gives it then. Errors of `read` pass through."""
        if not wait.seconds:
            return Waited(await read(), applied=True)
        if self._stopping or len(self) >= self._per_process or self._of_space[space_id] >= self._per_space:
            return Waited(await read(), applied=False)
        # Registered before the first read: an end between the read and the registration would wake nobody.
        with self._registered(space_id, export_id, wait) as waiter:
            job = await read()
            if not job.status.pending:
                return Waited(job, applied=True)
            with self._priority.paused():
                await asyncio.wait({waiter.woken}, timeout=wait.seconds)
            return Waited(await read(), applied=not waiter.woken.done() or waiter.woken.result())

    async def poll(self) -> None:
        """Wake the waiters of exports that have ended, and those whose client disconnected. Raises DatabaseUnavailable."""
        for waiter in [each for waiters in self._of_export.values() for each in waiters if each.disconnected()]:
            waiter.wake(ended=False)
        if self._of_export:
            for export_id in await self._jobs.ended(self._of_export):
                self._wake(export_id)

    def stop(self) -> None:
        """End every wait, and let no other begin: the process shuts down."""
        self._stopping = True
        for waiters in self._of_export.values():
            for waiter in waiters:
                waiter.wake(ended=False)

    @contextmanager
    def _registered(self, space_id: int, export_id: int, wait: Wait) -> Iterator[_Waiter]:
        waiter = _Waiter(wait.disconnected, asyncio.get_running_loop().create_future())
        self._of_export[export_id].add(waiter)
        self._of_space[space_id] += 1
        try:
            yield waiter
        finally:
            self._of_export[export_id].remove(waiter)
            if not self._of_export[export_id]:
                del self._of_export[export_id]
            self._of_space[space_id] -= 1
            if not self._of_space[space_id]:
                del self._of_space[space_id]

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.ExportCompleted(claim=claim):
                self._wake(claim.export_id)
            case events.ExportFailed(export_id=export_id) | events.ExportCancelled(export_id=export_id):
                self._wake(export_id)
            case _:
                pass

    def _wake(self, export_id: int) -> None:
        for waiter in self._of_export.get(export_id, ()):
            waiter.wake(ended=True)

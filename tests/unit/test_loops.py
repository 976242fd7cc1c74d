"""Only cancellation ends a loop of the runner."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import asyncpg
import pytest

from service.errors import DatabaseUnavailable
from service.exports.attempt import Attempts
from service.exports.lease import Leases
from service.exports.periodic import PeriodicTask
from service.exports.runner import Runner, RunnerOptions
from service.failpoints import FailpointRaised
from service.failures import StorageRefused
from service.model import Claim
from service.postgres.claims import Claims

ERRORS = [
    DatabaseUnavailable(),
    StorageRefused(),
    FailpointRaised(),
    TimeoutError(),
    asyncpg.InternalClientError(),
    KeyError(),
    RuntimeError(),
    asyncio.CancelledError(),  # an awaited task was cancelled, not the loop
]
SHORT = timedelta(seconds=0.004)


@dataclass
class Failing:
    """A step that raises each of the errors in turn and then succeeds."""

    times: int = 0
    succeeded: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, *_: Any, **__: Any) -> None:
        self.times += 1
        await asyncio.sleep(0)
        if self.times <= len(ERRORS):
            raise ERRORS[self.times - 1]
        self.succeeded.set()


class NoWork(Claims):
    """A queue that is always empty."""

    def __init__(self) -> None: ...

    async def claim(self, worker: str, *, lease: timedelta, space_slots: int, alone: bool) -> Claim | None:
        """See `Claims`."""
        return None


@asynccontextmanager
async def running(loop: str, step: Failing) -> AsyncIterator["asyncio.Task[None]"]:
    """Run a runner with this step in one of its loops."""
    claims = NoWork()
    leases = Leases(claims, duration=SHORT, no_progress=SHORT)
    rescue = step if loop == "rescue" else Failing(times=len(ERRORS))
    if loop == "claim":
        claims.claim = step  # type: ignore[method-assign]  # a fault from the inside
    if loop == "renew":
        leases.renew = step  # type: ignore[method-assign]  # a fault from the inside
    periodic = [PeriodicTask("clean", step, SHORT)] if loop == "periodic task" else []
    options = RunnerOptions(worker="tests", slots=1, space_slots=1, lease=SHORT, poll=SHORT, rescue=SHORT)
    runner = Runner(claims, leases, cast(Attempts, None), cast(Any, rescue), periodic, options)
    task = asyncio.create_task(runner.run())
    try:
        yield task
        runner.stop()
        await asyncio.wait({task}, timeout=20)
    finally:
        task.cancel()


@pytest.mark.parametrize("loop", ["claim", "renew", "rescue", "periodic task"])
async def test_no_error_ends_a_loop(loop: str) -> None:
    step = Failing()
    async with running(loop, step) as task, asyncio.timeout(20):
        await step.succeeded.wait()
        assert not task.done()
    assert step.times > len(ERRORS)


@pytest.mark.parametrize("loop", ["claim", "renew", "rescue", "periodic task"])
async def test_cancellation_ends_every_loop(loop: str) -> None:
    before = asyncio.all_tasks()
    step = Failing(times=len(ERRORS))
    async with running(loop, step) as task, asyncio.timeout(20):
        await step.succeeded.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
    assert asyncio.all_tasks() == before

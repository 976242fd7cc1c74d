"""Requests have priority over exports on the event loop, and event-loop lag is logged."""

import asyncio
import time
from types import SimpleNamespace

import pytest
import structlog

from service.exports import priority as scheduling
from service.exports.priority import FETCH_ROWS, FETCH_ROWS_UNDER_LOAD, RequestPriority
from service.process import loop_lag
from service.process.loop_lag import LoopLag
from tests.support.waiting import until_true

NEVER = 3600.0


class Database:
    """A database that counts concurrent fetches; each fetch takes `seconds`."""

    def __init__(self, priority: RequestPriority, seconds: float) -> None:
        self._priority = priority
        self._seconds = seconds
        self._now = 0
        self.most = 0
        self.limits: set[int] = set()
        """The row limits that the fetches got."""

    async def fetch(self) -> None:
        async with self._priority.fetch_slot() as most_rows:
            self.limits.add(most_rows)
            self._now += 1
            self.most = max(self.most, self._now)
            try:
                await asyncio.sleep(self._seconds)
            finally:
                self._now -= 1

    async def fetch_all(self, count: int) -> None:
        await asyncio.gather(*(self.fetch() for _ in range(count)))


def send_requests(priority: RequestPriority, times: int = 2) -> None:
    """Send requests that finish at once; after two of them another one is expected."""
    for _ in range(times):
        with priority.request():
            pass


async def assert_starts_after_the_requests(priority: RequestPriority, work: asyncio.Task[None]) -> None:
    """Check that `work` waits while one of two requests is in flight, and continues after both."""
    with priority.request():
        with priority.request():
            pass
        await asyncio.sleep(0.01)
        assert not work.done()
    async with asyncio.timeout(20):
        await work


async def test_an_export_does_not_wait_for_a_request_that_is_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    with priority.request():
        with priority.paused():
            async with asyncio.timeout(20):
                await priority.before_batch()
        work = asyncio.create_task(priority.before_batch())
        await asyncio.sleep(0.01)
        assert not work.done(), "the request counts again after its pause"
    async with asyncio.timeout(20):
        await work


async def test_a_paused_request_does_not_hide_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    with priority.request(), priority.paused():
        with priority.request():
            work = asyncio.create_task(priority.before_batch())
            await asyncio.sleep(0.01)
            assert not work.done()
        async with asyncio.timeout(20):
            await work


async def test_an_export_handles_no_batch_while_a_request_is_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    await assert_starts_after_the_requests(priority, asyncio.create_task(priority.before_batch()))


@pytest.mark.parametrize("before", [0, 2])
async def test_an_export_starts_no_fetch_while_a_request_is_in_flight(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    send_requests(priority, before)
    await assert_starts_after_the_requests(priority, asyncio.create_task(Database(priority, 0).fetch()))


async def test_continuous_requests_slow_an_export_down_without_stopping_it() -> None:
    priority = RequestPriority()
    started = time.monotonic()
    with priority.request():
        for _ in range(5):
            await priority.before_batch()
        await Database(priority, 0).fetch()
    assert time.monotonic() - started >= 6 * scheduling._LONGEST_WAIT


async def test_fewer_exports_fetch_at_once_than_there_are_cpus_while_requests_are_expected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    monkeypatch.setattr(scheduling, "_LIKELY_SECONDS", NEVER)
    for processors, most in ((1, 1), (2, 1), (4, 3)):
        priority = RequestPriority(processors)
        send_requests(priority)
        database = Database(priority, 0.005)
        await database.fetch_all(5)
        assert database.most == most


async def test_exports_fetch_at_once_and_with_large_limits_unless_two_requests_came_within_three_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(scheduling, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    priority = RequestPriority(2)
    before, meanwhile, after, again = (Database(priority, 0.005) for _ in range(4))
    await before.fetch_all(5)
    assert (before.most, before.limits) == (5, {FETCH_ROWS})

    send_requests(priority)
    await meanwhile.fetch_all(5)
    assert (meanwhile.most, meanwhile.limits) == (1, {FETCH_ROWS_UNDER_LOAD})

    now += 3.1
    send_requests(priority, 1)
    await after.fetch_all(5)
    assert (after.most, after.limits) == (5, {FETCH_ROWS})

    send_requests(priority, 1)
    await again.fetch_all(5)
    assert (again.most, again.limits) == (1, {FETCH_ROWS_UNDER_LOAD})


async def test_a_long_fetch_delays_other_fetches_for_a_limited_time_and_its_end_admits_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", 0.05)
    monkeypatch.setattr(scheduling, "_LIKELY_SECONDS", NEVER)
    priority = RequestPriority(2)
    send_requests(priority)
    slow, other = (asyncio.create_task(Database(priority, seconds).fetch()) for seconds in (NEVER, 0))
    await asyncio.sleep(0)
    assert not other.done()
    async with asyncio.timeout(20):
        await other

    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    database = Database(priority, 0.005)
    await database.fetch_all(3)
    assert database.most == 1


async def test_an_export_that_is_cancelled_while_it_waits_or_fetches_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    monkeypatch.setattr(scheduling, "_LIKELY_SECONDS", NEVER)
    priority = RequestPriority(2)
    send_requests(priority)
    database = Database(priority, 0.01)
    fetching, waiting, last = (asyncio.create_task(database.fetch()) for _ in range(3))
    await asyncio.sleep(0)
    waiting.cancel()
    fetching.cancel()
    async with asyncio.timeout(20):
        await last


async def test_event_loop_lag_is_logged() -> None:
    with structlog.testing.capture_logs() as logged:
        measured: list[float] = []
        watching = asyncio.create_task(LoopLag(measured.append).watch(lambda: True))
        await asyncio.sleep(0.02)
        time.sleep(0.05)  # noqa: ASYNC251 - the lag to be measured
        await asyncio.sleep(0.02)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    (line,) = logged
    assert line["event"] == "loop_lag"
    assert line["longest_ms"] >= 40
    assert max(measured) == pytest.approx(line["longest_ms"] / 1000, abs=0.0001)


async def test_lag_is_measured_but_not_logged_while_no_export_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "_REST", 0.001)
    measured: list[float] = []
    with structlog.testing.capture_logs() as logged:
        watching = asyncio.create_task(LoopLag(measured.append).watch(lambda: False))
        await until_true(lambda: len(measured) > 2)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert logged == []

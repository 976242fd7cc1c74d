"""The event loop's time: requests go before exports, and what kept it from turning is logged."""

import asyncio
import time

import pytest
import structlog

from service.exports import priority as scheduling
from service.exports.priority import FETCH_ROWS, FETCH_ROWS_UNDER_LOAD, RequestPriority
from service.process.loop_lag import LoopLag

NEVER = 3600.0


async def batches_worked_on(priority: RequestPriority, seconds: float) -> int:
    """How many batches an export works on in this time if there is nothing to do for any."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await priority.before_batch()
        count += 1
    return count


class Database:
    """Counts the fetches that are in it at once; each takes `seconds`."""

    def __init__(self, priority: RequestPriority, seconds: float) -> None:
        self._priority = priority
        self._seconds = seconds
        self._now = 0
        self.most = 0
        self.limits: set[int] = set()
        """The row limits the fetches were given."""

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


def ask(priority: RequestPriority, times: int = 2) -> None:
    """Requests that are answered at once; after two of them another one is likely."""
    for _ in range(times):
        with priority.request():
            pass


async def begins_after_the_requests(priority: RequestPriority, work: asyncio.Task[None]) -> None:
    """`work` is not done while one of two requests is under way, and is after both."""
    with priority.request():
        with priority.request():
            pass
        await asyncio.sleep(0.01)
        assert not work.done()
    async with asyncio.timeout(1):
        await work


async def test_an_export_works_on_no_batch_while_a_request_is_answered_and_goes_on_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    await begins_after_the_requests(priority, asyncio.create_task(priority.before_batch()))


@pytest.mark.parametrize("before", [0, 2])
async def test_it_begins_no_fetch_either(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    priority = RequestPriority()
    ask(priority, before)
    await begins_after_the_requests(priority, asyncio.create_task(Database(priority, 0).fetch()))


async def test_requests_without_a_pause_slow_an_export_down_and_do_not_stop_it() -> None:
    priority = RequestPriority()
    with priority.request():
        worked_on = await batches_worked_on(priority, 0.2)
        async with asyncio.timeout(1):
            await Database(priority, 0).fetch()
    assert 3 < worked_on < 20


async def test_fewer_exports_fetch_at_once_than_there_are_processors_while_requests_are_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    for processors, most in ((1, 1), (2, 1), (4, 3)):
        priority = RequestPriority(processors)
        ask(priority)
        database = Database(priority, 0.005)
        await database.fetch_all(5)
        assert database.most == most


async def test_all_fetch_at_once_and_much_where_no_two_requests_came_within_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LIKELY_SECONDS", 0.3)
    priority = RequestPriority(2)
    before, meanwhile, after, again = (Database(priority, 0.005) for _ in range(4))
    await before.fetch_all(5)
    assert (before.most, before.limits) == (5, {FETCH_ROWS})

    ask(priority)
    await meanwhile.fetch_all(5)
    assert (meanwhile.most, meanwhile.limits) == (1, {FETCH_ROWS_UNDER_LOAD})

    await asyncio.sleep(0.3)
    ask(priority, 1)
    await after.fetch_all(5)
    assert (after.most, after.limits) == (5, {FETCH_ROWS})

    ask(priority, 1)
    await again.fetch_all(5)
    assert (again.most, again.limits) == (1, {FETCH_ROWS_UNDER_LOAD})


async def test_a_fetch_that_takes_long_holds_the_others_up_for_a_while_only_and_its_end_lets_no_second_one_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", 0.05)
    priority = RequestPriority(2)
    ask(priority)
    slow, other = (asyncio.create_task(Database(priority, seconds).fetch()) for seconds in (NEVER, 0))
    await asyncio.sleep(0)
    assert not other.done()
    async with asyncio.timeout(1):
        await other

    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    database = Database(priority, 0.005)
    await database.fetch_all(3)
    assert database.most == 1


async def test_an_export_that_ends_in_line_or_in_its_fetch_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_HOLD", NEVER)
    priority = RequestPriority(2)
    ask(priority)
    database = Database(priority, 0.01)
    fetching, waiting, last = (asyncio.create_task(database.fetch()) for _ in range(3))
    await asyncio.sleep(0)
    waiting.cancel()
    fetching.cancel()
    async with asyncio.timeout(1):
        await last


async def test_a_hold_of_the_loop_is_logged_with_its_length() -> None:
    with structlog.testing.capture_logs() as logged:
        watching = asyncio.create_task(LoopLag().watch(lambda: True))
        await asyncio.sleep(0.02)
        time.sleep(0.05)  # noqa: ASYNC251 - the fault that is to be seen
        await asyncio.sleep(0.02)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    (line,) = logged
    assert line["event"] == "loop_lag"
    assert line["longest_ms"] >= 40
    assert line["p99_ms"] <= line["longest_ms"]


async def test_nothing_is_measured_and_logged_while_nothing_runs() -> None:
    with structlog.testing.capture_logs() as logged:
        watching = asyncio.create_task(LoopLag().watch(lambda: False))
        await asyncio.sleep(0.02)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert logged == []

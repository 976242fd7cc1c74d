"""The event loop's time: requests go before exports, and what kept it from turning is logged."""

import asyncio
import time

import pytest
import structlog

from service import event_loop
from service.event_loop import LoopLag, Turns

NEVER = 3600.0


async def batches_worked_on(turns: Turns, seconds: float) -> int:
    """How many batches an export works on in this time if there is nothing to do for any."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await turns.batch()
        count += 1
    return count


class Database:
    """Counts the fetches that are in it at once; each takes `seconds`."""

    def __init__(self, turns: Turns, seconds: float) -> None:
        self._turns = turns
        self._seconds = seconds
        self._now = 0
        self.most = 0
        self.brief: set[bool] = set()
        """What the fetches were asked to be."""

    async def fetch(self) -> None:
        async with self._turns.fetch() as brief:
            self.brief.add(brief)
            self._now += 1
            self.most = max(self.most, self._now)
            try:
                await asyncio.sleep(self._seconds)
            finally:
                self._now -= 1

    async def fetch_all(self, count: int) -> None:
        await asyncio.gather(*(self.fetch() for _ in range(count)))


def ask(turns: Turns, times: int = 2) -> None:
    """Requests that are answered at once; after two of them another one is likely."""
    for _ in range(times):
        with turns.request():
            pass


async def begins_after_the_requests(turns: Turns, work: asyncio.Task[None]) -> None:
    """`work` is not done while one of two requests is under way, and is after both."""
    with turns.request():
        with turns.request():
            pass
        await asyncio.sleep(0.01)
        assert not work.done()
    async with asyncio.timeout(1):
        await work


async def test_an_export_works_on_no_batch_while_a_request_is_answered_and_goes_on_after_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_WAIT", NEVER)
    turns = Turns()
    await begins_after_the_requests(turns, asyncio.create_task(turns.batch()))


@pytest.mark.parametrize("before", [0, 2])
async def test_it_begins_no_fetch_either(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_WAIT", NEVER)
    turns = Turns()
    ask(turns, before)
    await begins_after_the_requests(turns, asyncio.create_task(Database(turns, 0).fetch()))


async def test_requests_without_a_pause_slow_an_export_down_and_do_not_stop_it() -> None:
    turns = Turns()
    with turns.request():
        worked_on = await batches_worked_on(turns, 0.2)
        async with asyncio.timeout(1):
            await Database(turns, 0).fetch()
    assert 3 < worked_on < 20


async def test_fewer_exports_fetch_at_once_than_there_are_processors_while_requests_are_likely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_HOLD", NEVER)
    for processors, most in ((1, 1), (2, 1), (4, 3)):
        turns = Turns(processors)
        ask(turns)
        database = Database(turns, 0.005)
        await database.fetch_all(5)
        assert database.most == most


async def test_all_fetch_at_once_and_much_where_no_two_requests_came_within_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_LIKELY_SECONDS", 0.3)
    turns = Turns(2)
    before, meanwhile, after, again = (Database(turns, 0.005) for _ in range(4))
    await before.fetch_all(5)
    assert (before.most, before.brief) == (5, {False})

    ask(turns)
    await meanwhile.fetch_all(5)
    assert (meanwhile.most, meanwhile.brief) == (1, {True})

    await asyncio.sleep(0.3)
    ask(turns, 1)
    await after.fetch_all(5)
    assert (after.most, after.brief) == (5, {False})

    ask(turns, 1)
    await again.fetch_all(5)
    assert (again.most, again.brief) == (1, {True})


async def test_a_fetch_that_takes_long_holds_the_others_up_for_a_while_only_and_its_end_lets_no_second_one_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_HOLD", 0.05)
    turns = Turns(2)
    ask(turns)
    slow, other = (asyncio.create_task(Database(turns, seconds).fetch()) for seconds in (NEVER, 0))
    await asyncio.sleep(0)
    assert not other.done()
    async with asyncio.timeout(1):
        await other

    monkeypatch.setattr(event_loop, "_LONGEST_HOLD", NEVER)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    database = Database(turns, 0.005)
    await database.fetch_all(3)
    assert database.most == 1


async def test_an_export_that_ends_in_line_or_in_its_fetch_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_LONGEST_HOLD", NEVER)
    turns = Turns(2)
    ask(turns)
    database = Database(turns, 0.01)
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

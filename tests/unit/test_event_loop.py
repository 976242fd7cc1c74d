"""The event loop's time: requests go before exports, and what kept it from turning is logged."""

import asyncio
import time

import structlog

from service.event_loop import LoopLag, Turns


async def turns_taken(turns: Turns, seconds: float) -> int:
    """How many turns an export takes in this time."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await turns.export()
        count += 1
    return count


async def test_an_export_waits_while_a_request_is_answered_and_goes_on_after_it() -> None:
    turns = Turns()
    with turns.request():
        turn = asyncio.create_task(turns.export())
        await asyncio.sleep(0.01)
        assert not turn.done()
    await turn


async def test_it_waits_for_the_last_of_several_requests() -> None:
    turns = Turns()
    with turns.request():
        with turns.request():
            pass
        turn = asyncio.create_task(turns.export())
        await asyncio.sleep(0.01)
        assert not turn.done()
    await turn


async def test_requests_without_a_pause_slow_an_export_down_and_do_not_stop_it() -> None:
    turns = Turns()
    with turns.request():
        taken = await turns_taken(turns, 0.2)
    assert 3 < taken < 20


def requests(turns: Turns, count: int) -> None:
    """So many requests, one after the other, at once."""
    for _ in range(count):
        with turns.request():
            pass


async def test_an_export_pauses_before_each_batch_while_requests_are_frequent() -> None:
    turns = Turns()
    requests(turns, 3)
    assert await turns_taken(turns, 0.05) > 100
    requests(turns, 1)
    assert await turns_taken(turns, 0.05) < 30
    await asyncio.sleep(0.1)
    assert await turns_taken(turns, 0.05) > 100


async def test_all_exports_together_take_no_more_turns_than_one_while_requests_are_frequent() -> None:
    turns = Turns()
    requests(turns, 4)
    assert sum(await asyncio.gather(*(turns_taken(turns, 0.08) for _ in range(4)))) < 45


async def test_an_export_that_is_ended_while_it_pauses_holds_up_no_other() -> None:
    turns = Turns()
    requests(turns, 4)
    ended, waiting = asyncio.create_task(turns.export()), asyncio.create_task(turns.export())
    await asyncio.sleep(0)
    ended.cancel()
    async with asyncio.timeout(1):
        await waiting


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

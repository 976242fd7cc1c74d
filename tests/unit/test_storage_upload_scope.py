"""An upload that is cancelled in each of its phases."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from service.storage import upload_scope as scope
from service.storage.upload_scope import upload_scope


class Script:
    """An upload that waits at each step for the test, and records the steps that finished."""

    def __init__(self) -> None:
        self.completed = False
        self.log: list[str] = []
        self.gates = {step: asyncio.Event() for step in ("begin", "body", "abandon")}
        self.reached = {step: asyncio.Event() for step in self.gates}

    async def at(self, step: str) -> None:
        self.reached[step].set()
        await self.gates[step].wait()
        self.log.append(step)

    async def begin(self) -> "Script":
        await self.at("begin")
        return self

    async def abandon(self, upload: "Script") -> None:
        await self.at("abandon")

    async def run(self) -> None:
        async with upload_scope(self.begin, self.abandon) as upload:
            await upload.at("body")
            upload.completed = True

    def open(self, *steps: str) -> None:
        for step in steps:
            self.gates[step].set()


async def test_a_completed_upload_is_not_abandoned() -> None:
    script = Script()
    script.open("begin", "body", "abandon")
    await script.run()
    assert script.log == ["begin", "body"]


async def test_an_upload_cancelled_during_begin_is_begun_and_abandoned() -> None:
    script = Script()
    running = asyncio.create_task(script.run())
    await script.reached["begin"].wait()
    running.cancel()
    script.open("begin", "abandon")
    with pytest.raises(asyncio.CancelledError):
        await running
    assert script.log == ["begin", "abandon"]


async def test_an_upload_cancelled_inside_the_block_is_abandoned() -> None:
    script = Script()
    script.open("begin", "abandon")
    running = asyncio.create_task(script.run())
    await script.reached["body"].wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert script.log == ["begin", "abandon"]


async def test_repeated_cancellation_does_not_interrupt_abandon() -> None:
    script = Script()
    script.open("begin")
    running = asyncio.create_task(script.run())
    await script.reached["body"].wait()
    running.cancel()
    await script.reached["abandon"].wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    assert not running.done()
    script.open("abandon")
    with pytest.raises(asyncio.CancelledError):
        await running
    assert script.log == ["begin", "abandon"]


async def test_a_begin_that_hangs_is_cancelled_after_the_cleanup_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "CLEANUP_TIMEOUT", timedelta(milliseconds=50))
    script = Script()
    running = asyncio.create_task(script.run())
    await script.reached["begin"].wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert script.log == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_timeout_around_the_block_raises_timeout_error() -> None:
    script = Script()
    script.open("begin", "abandon")
    with pytest.raises(TimeoutError):
        await _within(0.05, script.run)
    assert script.log == ["begin", "abandon"]


async def test_a_failed_begin_is_not_abandoned() -> None:
    script = Script()

    async def fail() -> Script:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with upload_scope(fail, script.abandon):
            pytest.fail("an upload was begun")
    assert script.log == []


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(seconds):
        await work()

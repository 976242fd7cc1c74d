"""A collector of traces that is down, refuses, hangs or is slow: no export is delayed, and a shutdown by seconds at most."""

import time
from collections.abc import AsyncIterator

import pytest

from tests.support.calls import create_with_tokens
from tests.support.collector import Collector, collecting
from tests.support.program import free_port
from tests.support.scene import Scene
from tests.support.waiting import until_true

STOPPED_WITHIN = 15.0
"""Seconds: 3 for the last spans, and the rest for a busy machine. The library alone would wait for 30."""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that works until a test says otherwise."""
    async with collecting() as running:
        yield running


@pytest.mark.parametrize("fault", ["down", "refuses", "hangs"])
async def test_a_collector_that_does_not_work_delays_no_export_and_the_shutdown_by_seconds(
    scene: Scene, collector: Collector, fault: str
) -> None:
    collector.status, collector.hangs = (503 if fault == "refuses" else 200), fault == "hangs"
    settings = collector.settings
    if fault == "down":
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    async with scene.running(**settings) as program:
        for _ in range(2):
            await scene.assert_completed(program, await create_with_tokens(program, scene.space))
        if fault != "down":
            await until_true(lambda: collector.requests)
        started = time.monotonic()
        assert await program.end() == 0
        assert time.monotonic() - started < STOPPED_WITHIN
    assert collector.spans == []
    await scene.assert_nothing_is_left()
    if fault == "hangs":
        (line,) = program.events("spans_not_sent")
        assert line["level"] == "warning"


async def test_a_full_queue_loses_spans_and_nothing_else(scene: Scene, collector: Collector) -> None:
    collector.hangs = True
    bounds = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
    async with scene.running(**collector.settings, **bounds) as program:
        await scene.assert_completed(program, await create_with_tokens(program, scene.space))
        await until_true(lambda: any("Queue full" in str(line.get("event")) for line in program.log))
        assert await program.end() == 0


async def test_spans_go_on_once_the_collector_works_again(scene: Scene, collector: Collector) -> None:
    collector.status = 400
    async with scene.running(**collector.settings) as program:
        await scene.assert_completed(program, await create_with_tokens(program, scene.space))
        await until_true(lambda: collector.requests)
        collector.status = 200
        await scene.assert_completed(program, await create_with_tokens(program, scene.space))
        await collector.until_named("export attempt")


async def test_the_last_spans_are_sent_at_a_shutdown(scene: Scene, collector: Collector) -> None:
    late = {**collector.settings, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    async with scene.running(**late) as program:
        await scene.assert_completed(program, await create_with_tokens(program, scene.space))
        assert collector.spans == []
        assert await program.end() == 0
    assert len(collector.named("export attempt")) == 1

"""The contents of log lines."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import structlog

from service import logs

_CRASH = """
import structlog
from service import logs
logs.set_up(level="info", form={form!r})
def crash(key):
    raise ValueError("went wrong")
try:
    crash("sec" + "ret-of-a-caller")
except ValueError:
    structlog.get_logger().exception("crashed")
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_contains_no_values_of_variables(form: str) -> None:
    command = [sys.executable, "-c", _CRASH.format(form=form)]
    logged = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "went wrong" in logged
    assert "secret-of-a-caller" not in logged


_MANY = """
import logging, structlog
from service import logs
logs.set_up(level="info", form="json")
for number in range(1000):
    structlog.get_logger().warning("claim_failed", detail="the same")
    logging.getLogger("asyncio").error("socket.accept() out of system resource")
    structlog.get_logger().info("request", request_id=number)
"""
_ALIVE = """
import logging, sys, structlog
from service import logs
logs.set_up(level="info", form="json")
for number in range(1000):
    structlog.get_logger().warning("event", number=number)
    logging.getLogger("asyncio").error("line %s", number)
sys.stdout.write("alive")
"""


def test_a_line_that_repeats_is_limited_and_different_lines_are_not() -> None:
    logged = subprocess.run([sys.executable, "-c", _MANY], capture_output=True, text=True, check=True).stderr
    assert logged.count("claim_failed") == 10
    assert logged.count("out of system resource") == 10
    assert logged.count("request_id") == 1000


def test_the_count_of_dropped_lines_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    repeats = logs.Repeats()
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    for _ in range(10):
        assert repeats.drop_event(None, "info", {"event": "same"}) == {"event": "same"}
    for _ in range(7):
        with pytest.raises(structlog.DropEvent):
            repeats.drop_event(None, "info", {"event": "same"})
    monkeypatch.setattr(time, "monotonic", lambda: 61.0)
    assert repeats.drop_event(None, "info", {"event": "same"}) == {"event": "same", "dropped_repeats": 7}


def test_the_lines_of_requests_do_not_push_out_a_line_that_repeats() -> None:
    repeats = logs.Repeats()
    for _ in range(10):
        repeats.drop_event(None, "info", {"event": "same"})
    for number in range(1000):
        repeats.drop_event(None, "info", {"event": "request", "request_id": number})
    with pytest.raises(structlog.DropEvent):
        repeats.drop_event(None, "info", {"event": "same"})


@pytest.mark.parametrize(
    "value", ["plain", "Zoë", "\N{PILE OF POO}", "half \udc80", 2**70, 1.5, None, True, [1, {"a": "b"}]]
)
def test_a_line_is_json_in_ascii_whatever_it_contains(value: object) -> None:
    line = logs.to_json({"event": "an event", "value": value}, default=repr)
    assert line.isascii()
    assert json.loads(line) == {"event": "an event", "value": value}


def test_a_value_that_json_does_not_know_is_written_as_its_default() -> None:
    assert json.loads(logs.to_json({"value": {1, 2}}, default=repr)) == {"value": "{1, 2}"}


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([sys.executable, "-c", _ALIVE], stdout=subprocess.PIPE, stderr=full, check=False)
    assert ended.stdout == b"alive"


def test_a_closed_pipe_under_the_log_stops_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run([sys.executable, "-c", _ALIVE], stdout=subprocess.PIPE, stderr=writing, check=False)
    finally:
        os.close(writing)
    assert ended.stdout == b"alive"

"""The contents of log lines."""

import subprocess
import sys

import pytest

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

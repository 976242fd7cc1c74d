"""A crash test of half a minute: every export ends once with the correct bytes, and nothing is left over."""

import asyncio
import json
import os
import sys

import pytest

pytestmark = pytest.mark.long

SECONDS = 30
SEED = int(os.environ.get("CHAOS_SEED", "20"))


@pytest.mark.timeout(SECONDS + 400)
async def test_half_a_minute_of_random_faults_violates_no_invariant() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(SEED)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    printed, messages = await process.communicate()
    assert printed, messages.decode()
    report = json.loads(printed.splitlines()[-1])
    assert report["violations"] == [], report
    assert process.returncode == 0
    assert report["counts"]["completed"] > 0

"""The crash test, for a minute: whatever dies, every export ends once, with the right bytes, and nothing is left."""

import asyncio
import json
import os
import sys

import pytest

SECONDS = 60
SEED = int(os.environ.get("CHAOS_SEED", "20"))


@pytest.mark.timeout(SECONDS + 400)
async def test_a_minute_of_chaos_violates_nothing() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", str(SECONDS), "--seed", str(SEED)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    printed, said = await process.communicate()
    assert printed, said.decode()
    report = json.loads(printed.splitlines()[-1])
    assert report["violations"] == [], report
    assert process.returncode == 0
    assert report["counts"]["completed"] > 10

"""The HTTP contract under `python -OO`, which removes docstrings and assert statements from the service."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

TESTS = ["tests/integration/test_http_contract.py", "tests/integration/test_error_messages.py"]


@pytest.mark.timeout(400)
async def test_the_http_contract_holds_without_docstrings_and_asserts(postgres_server: str) -> None:
    """The asserts of test modules still run, because pytest rewrites them. It warns about those of other modules."""
    command = [sys.executable, "-OO", "-m", "pytest", "--numprocesses", "0", "-p", "no:cacheprovider", "-q"]
    command += ["-W", "ignore:assertions not in test modules:pytest.PytestConfigWarning", *TESTS]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TEST_DATABASE_URL": postgres_server},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()

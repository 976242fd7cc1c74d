"""schemathesis reads the OpenAPI document and calls the real program with data that it invents, with links between calls."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.support.contacts import tenant
from tests.support.program import running

CONFIG = Path(__file__).with_name("schemathesis.toml")
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "20")
UNLIMITED = "1000000/minute"
SETTINGS = {
    "RATE_LIMIT_CREATE": UNLIMITED,
    "RATE_LIMIT_STATUS": UNLIMITED,
    "RATE_LIMIT_OTHER": UNLIMITED,
    "RATE_LIMIT_CONTACTS": "100000/minute",
    "RATE_LIMIT_CONTACT": "100000/minute",
    "RATE_LIMIT_STORAGE_URL": "async+memory://",
}
pytestmark = [pytest.mark.foreign, pytest.mark.timeout(7200)]


async def schemathesis(address: str, directory: Path, *options: str) -> tuple[int, str]:
    """Run all checks against a service; returns the exit code and the report.

    All checks are the default. The option `--checks all` would also run the one that the configuration switches off.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{address}/openapi.json", "--max-examples", EXAMPLES, "--continue-on-failure"),
        *("--seed", "1", "--no-color", "--request-timeout", "30", "--warnings", "off", *options),
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


@pytest.mark.parametrize("with_key", [True, False])
async def test_the_program_does_what_its_description_says(database_url: str, tmp_path: Path, with_key: bool) -> None:
    space = await tenant(database_url)
    files = tmp_path / "files"
    files.mkdir()
    settings = {"DATABASE_URL": database_url, "STORAGE_URL": files.as_uri(), **SETTINGS}
    options = ["--header", f"Authorization: Bearer {space.key}"] if with_key else []
    async with running(settings) as program:
        code, report = await schemathesis(program.address, tmp_path, *options)
        errors = [line for line in program.events("request") if line["status"] >= 500]
    assert code == 0, report
    assert errors == []

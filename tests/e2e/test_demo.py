"""The demo, run as a person would run it, and the files and processes it leaves."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.program import environment
from tests.support.shell import contact_exports, run, shell
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_demo() -> str:
    """The path of `./run`. Fails the test if `./run` would replace the environment that these tests use."""
    command = ["sh", "-c", "cat setup.cfg pyproject.toml requirements/*.txt | cksum"]
    requirements = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    stamp = ROOT / ".venv" / "stamp"
    if not stamp.exists() or not stamp.read_text().endswith(f"{ROOT} {requirements}"):
        pytest.fail("the environment in .venv is missing or out of date; `./run test` renews it")
    return str(ROOT / "run")


def content(directory: Path) -> list[Path]:
    """Return the entries of a directory."""
    return list(directory.iterdir())


def processes_below(directory: Path) -> list[int]:
    """Return the processes whose working directory is in this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory) in str((entry / "cwd").readlink()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@asynccontextmanager
async def kept(run_demo: str, temporary: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """Run a demo with `--keep`; yields its process and the lines printed before it waits."""
    process = await asyncio.create_subprocess_exec(
        *(run_demo, "demo", "--contacts", "300", "--keep"),
        env=environment({"TMPDIR": str(temporary)}),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while "keeps running" not in (line := (await process.stdout.readline()).decode()):
                assert line, lines
                lines.append(line)
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_demo_exports_verifies_and_removes_its_files(run_demo: str, short_path: Path) -> None:
    for _ in range(2):
        ended = await run(run_demo, "demo", "--contacts", "2000", TMPDIR=str(short_path))
        assert (ended.code, ended.errors) == (0, "")
        assert "  rows    1,960 of 2,000 contacts: 40 were merged into another contact\n" in ended.output
        assert re.search(r"sha256  [0-9a-f]{64} \(verified\)", ended.output)
        assert re.search(r"The export took [0-9.]+ s: [0-9,]+ rows/s\n", ended.output)
        shown = [json.loads(line) for line in ended.output.splitlines() if line.startswith('  {"id":')]
        assert [list(line)[-2:] for line in shown] == [["comet_tokens", "emails"]] * 3
        assert content(short_path) == []


async def test_settings_of_the_caller_do_not_reach_the_demo(run_demo: str, short_path: Path) -> None:
    ours = {"HOST": "192.0.2.1", "PORT": "1", "LOG_LEVEL": "INFO", "EXPORT_SLOTS": "0", "MAX_ATTEMPTS": "none"}
    ours |= {"DATABASE_URL": "postgresql://db.invalid/a", "STORAGE_URL": "s3://bucket", "S3_ENDPOINT_URL": "x"}
    ours |= {"RATE_LIMIT_CREATE": "0/minute", "PUBLIC_URL": "https://exports.invalid", "FAILPOINTS": "claimed:kill"}
    ours |= {"STATE_DIR": "/none", "MIGRATE_ON_START": "perhaps"}
    drivers = {"PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby", "PGPORT": "x", "PGHOST": "db.invalid"}
    systems = {"HOME": "/none", "PYTHONIOENCODING": "ascii"}
    settings = {**ours, **drivers, **systems}
    ended = await run(run_demo, "demo", "--contacts", "300", TMPDIR=str(short_path), **settings)
    assert (ended.code, ended.errors) == (0, "")
    assert "  rows    294 of 300 contacts: " in ended.output
    assert content(short_path) == []


async def test_with_keep_the_printed_commands_work(run_demo: str, short_path: Path) -> None:
    async with kept(run_demo, short_path) as (process, lines):
        create, status, overview = [line.strip() for line in lines if line.strip().startswith(("curl", "/", "psql"))]
        assert json.loads(await shell(create, {})) == {"export_id": 2, "status": "queued"}
        assert json.loads(await shell(status, {}))["status"] == "completed"
        rows = await shell(overview, {})
        assert "Demonstration" in rows
        took = re.search(r"The export took ([0-9.]+) s", "".join(lines))
        own = re.search(r"export_id +\| 1\n.*?duration +\| 00:00:([0-9.]+)\n", rows, re.DOTALL)
        assert took is not None
        assert own is not None
        assert float(took[1]) == round(float(own[1]), 2)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert content(short_path) == []


async def test_after_a_kill_all_processes_end_and_the_next_demo_removes_the_files(run_demo: str, short_path: Path) -> None:
    async with kept(run_demo, short_path) as (process, _):
        (leftover,) = content(short_path)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()

    async def all_ended() -> bool:
        return processes_below(leftover) == []

    await until(all_ended)
    ended = await contact_exports("demo", "--contacts", "100", TMPDIR=str(short_path))
    assert ended.code == 0
    assert content(short_path) == []

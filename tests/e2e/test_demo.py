"""`contact-exports demo`, whole, as a newcomer runs it, and what it leaves behind."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.program import environment
from tests.support.shell import contact_exports, shell
from tests.support.waiting import until


def content(directory: Path) -> list[Path]:
    """What lies in a directory."""
    return list(directory.iterdir())


def processes_below(directory: Path) -> list[int]:
    """Processes that work in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory) in str((entry / "cwd").readlink()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@asynccontextmanager
async def kept(temporary: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A demonstration that stays up, and what it has printed until then."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "demo", "--contacts", "300", "--keep"),
        env=environment({"TMPDIR": str(temporary)}),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(60):
            while "stays up" not in (line := (await process.stdout.readline()).decode()):
                assert line, lines
                lines.append(line)
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_exports_verifies_shows_and_leaves_nothing(short_path: Path) -> None:
    for _ in range(2):
        ended = await contact_exports("demo", "--contacts", "2000", TMPDIR=str(short_path))
        assert (ended.code, ended.errors) == (0, "")
        assert re.search(r"rows    1,960\n", ended.output)
        assert re.search(r"sha256  [0-9a-f]{64} \(verified\)", ended.output)
        assert re.search(r"in [0-9.]+ s: [0-9,]+ rows/s", ended.output)
        shown = [json.loads(line) for line in ended.output.splitlines() if line.startswith('  {"id":')]
        assert [list(line)[-2:] for line in shown] == [["comet_tokens", "emails"]] * 3
        assert content(short_path) == []


async def test_with_keep_the_printed_commands_work(short_path: Path) -> None:
    async with kept(short_path) as (process, lines):
        create, status, overview = [line.strip() for line in lines if line.strip().startswith(("curl", "/", "psql"))]
        assert json.loads(await shell(create, {})) == {"export_id": 2, "status": "queued"}
        assert json.loads(await shell(status, {}))["status"] == "completed"
        assert "Demonstration" in await shell(overview, {})
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
    assert content(short_path) == []


async def test_after_a_kill_no_process_stays_and_the_next_one_cleans_up(short_path: Path) -> None:
    async with kept(short_path) as (process, _):
        (left,) = content(short_path)
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()

    async def nobody_is_left() -> bool:
        return processes_below(left) == []

    await until(nobody_is_left)
    ended = await contact_exports("demo", "--contacts", "100", TMPDIR=str(short_path))
    assert ended.code == 0
    assert content(short_path) == []

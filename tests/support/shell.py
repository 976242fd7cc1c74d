"""Shell commands as operators type them."""

import asyncio
import os
import sys
from pathlib import Path
from typing import NamedTuple

from tests.support.program import environment

BIN = Path(sys.executable).parent
_SECONDS = 60.0


class Ended(NamedTuple):
    """The exit code, standard output and standard error of a command."""

    code: int
    output: str
    errors: str


async def contact_exports(*arguments: str, **settings: str) -> Ended:
    """Run one command of `contact-exports`."""
    return await run(sys.executable, "-m", "service", *arguments, **settings)


async def run(*command: str, **settings: str) -> Ended:
    """Run any command with these environment variables."""
    return await _run([*command], settings)


async def shell(script: str, settings: dict[str, str]) -> str:
    """Run pasted shell commands and return their standard output. They must succeed."""
    ended = await _run(["sh", "-euc", script], settings)
    assert ended.code == 0, ended.errors or ended.output
    return ended.output


async def _run(command: list[str], settings: dict[str, str]) -> Ended:
    environ = environment(settings) | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,  # a terminal would be asked for what is missing
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())

"""Measurements in a process of their own, so that no other work of the benchmark delays them.

Both sides exchange lines of JSON: the process responds to each line that it reads from standard input with one line.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any


class MeasuringProcess:
    """A handle of the process."""

    def __init__(self, module: str, process: asyncio.subprocess.Process) -> None:
        self._module = module
        self._process = process

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def ask(self, **fields: object) -> Any:
        """The response to these fields. Raises RuntimeError if the process ends; it prints the reason."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(fields).encode() + b"\n")
        await self._process.stdin.drain()
        reply = await self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"{self._module} ended with code {await self._process.wait()}")
        return json.loads(reply)


@asynccontextmanager
async def measuring_process(module: str) -> AsyncIterator[MeasuringProcess]:
    """Run a module of this package for the block."""
    pipe = asyncio.subprocess.PIPE
    command = [sys.executable, "-m", module]
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=2**26)
    try:
        yield MeasuringProcess(module, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def respond(handle: Callable[[dict[str, Any]], Awaitable[object]]) -> None:
    """In the process: respond to each line with the result of `handle` until standard input ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        sys.stdout.write(json.dumps(await handle(json.loads(line))) + "\n")
        sys.stdout.flush()

"""The real program as a process of its own, told by its environment what to do, as anyone runs it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TMPDIR", "LD_LIBRARY_PATH", "POSTGRES_BIN")
_FOR_TESTS = {
    # Short delays, and a lease that a busy machine can renew in time; tests that wait for its end set a shorter one.
    "LEASE_SECONDS": "10",
    "SWEEP_SECONDS": "0.5",
    "POLL_SECONDS": "0.2",
    "RETRY_SECONDS": "0.2",
    "RATE_LIMIT_CREATE": "1000/minute",
    "RATE_LIMIT_STATUS": "10000/minute",
    "PORT": "0",
}


class Program:
    """One running `contact-exports serve`; its log lines are read as they come."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.address = ""
        self.log: list[dict[str, Any]] = []
        self._listening = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._process.returncode is None:
            # Not by the process's own method: that looks for its end first, and takes the exit code from who waits for it.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end and return the exit code; a process that stays is killed and fails the test."""
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                code = await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            raise
        await self._reading
        return code

    async def listening(self) -> None:
        """Wait until it accepts requests; it may not be able to work yet."""
        async with asyncio.timeout(_START_SECONDS):
            while not self._listening.is_set():
                waiting = asyncio.create_task(self._listening.wait())
                await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                assert self._listening.is_set() or not self._reading.done(), f"it ended: {self.log}"

    async def ready(self) -> None:
        """Wait until `/readyz` says 200."""
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.address}/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event so far."""
        return [line for line in self.log if line.get("event") == name]

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "text", "text": line.decode(errors="replace")}
            self.log.append(entry)
            if entry.get("event") == "listening":
                self.address = entry["address"]
                self._listening.set()


@asynccontextmanager
async def started(settings: dict[str, str]) -> AsyncIterator[Program]:
    """The program with these settings, not waited for; killed at the end if it still runs."""
    command = [sys.executable, "-m", "service", "serve"]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment(settings), stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    program = Program(process)
    try:
        yield program
    finally:
        program.send(signal.SIGCONT)
        program.send(signal.SIGKILL)
        await process.wait()
        await program._reading


@asynccontextmanager
async def running(settings: dict[str, str]) -> AsyncIterator[Program]:
    """The program with these settings, ready to work."""
    async with started(settings) as program:
        await program.listening()
        await program.ready()
        yield program


def environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a process: of ours only what finds programs and libraries, then the settings."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    return kept | _FOR_TESTS | settings

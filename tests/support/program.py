"""The real program in its own process, configured by environment variables."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_KEPT = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TMPDIR", "LD_LIBRARY_PATH", "POSTGRES_BIN", "COVERAGE_PROCESS_CONFIG")
_FOR_TESTS = {
    # With any other interpreter `./run` would make .venv again, from which these tests run.
    "PYTHON": sys.executable,
    # Short delays, and a lease that a busy machine can renew in time; tests that wait for its end set a shorter one.
    "LEASE_SECONDS": "10",
    "SWEEP_SECONDS": "0.5",
    "POLL_SECONDS": "0.2",
    "RETRY_SECONDS": "0.2",
    "RATE_LIMIT_CREATE": "1000/minute",
    "RATE_LIMIT_STATUS": "10000/minute",
    "PORT": "0",
    "ADMIN_PORT": "0",
}


class Program:
    """One running `contact-exports serve`. Its log lines are collected in `log`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.address = ""
        self.admin = ""
        """The address of the operator's port; empty while it does not listen."""
        self.log: list[dict[str, Any]] = []
        self._listening = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal if the process is running."""
        if self._process.returncode is None:
            # Process.send_signal would poll the process first and could take the exit code from `wait`.
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the process and return its exit code. After 30 s the process is killed and TimeoutError raised."""
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
        """Wait until the program accepts requests. It may not be ready yet."""
        async with asyncio.timeout(_START_SECONDS):
            while not self._listening.is_set():
                waiting = asyncio.create_task(self._listening.wait())
                await asyncio.wait({waiting, self._reading}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                assert self._listening.is_set() or not self._reading.done(), f"the program ended: {self.log}"

    async def ready(self) -> None:
        """Wait until `/readyz` returns 200."""
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{self.address}/readyz") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one event so far."""
        return [line for line in self.log if line.get("event") == name]

    async def _read(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {"event": "text", "text": line.decode(errors="replace")}
            self.log.append(entry)
            if entry.get("event") == "admin_listening":
                self.admin = entry["address"]
            if entry.get("event") == "listening":
                self.address = entry["address"]
                self._listening.set()


@asynccontextmanager
async def started(settings: dict[str, str], *, module: str = "service") -> AsyncIterator[Program]:
    """Start the program without waiting for it; `module` runs it. It is killed at the end of the block."""
    command = [sys.executable, "-m", module, "serve"]
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
async def running(settings: dict[str, str], *, module: str = "service") -> AsyncIterator[Program]:
    """Start the program and wait until it is ready. `module` as in `started`."""
    async with started(settings, module=module) as program:
        await program.listening()
        await program.ready()
        yield program


def free_port() -> str:
    """A port of loopback that nothing uses now, for a setting that needs one in advance."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return a process environment: the variables that locate programs and libraries, test intervals, and `settings`."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT}
    return kept | _FOR_TESTS | settings

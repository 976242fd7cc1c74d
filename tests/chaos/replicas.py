"""The service's processes: each seat holds one process, and gets a new one whenever it ends."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.failpoints import specification
from tests.chaos.findings import Findings
from tests.chaos.world import World
from tests.support.program import Program

_END_SECONDS = 90.0
"""Longest a process may take to end after SIGTERM: the grace period, the handback, and a SIGSTOP in between."""
_CRASHES = (
    *("claim_crashed", "attempt_crashed", "attempt_not_recorded"),
    *("outcome_refused", "loop_step_failed", "request_failed"),
    *("webhook_claim_crashed", "webhook_not_recorded"),
)


class Replica:
    """One process; `armed` if it has failpoints."""

    def __init__(self, name: str, program: Program, *, armed: bool) -> None:
        self.name = name
        self.program = program
        self.armed = armed
        self.asked_to_end = False
        self.base: dict[str, int] = {}

    @property
    def usable(self) -> bool:
        """Whether it has an address and was not told to stop."""
        return bool(self.program.address) and not self.asked_to_end

    def memory_and_files(self) -> dict[str, int]:
        """Return resident bytes and open descriptors; empty if the process has ended."""
        try:
            pages = int(Path(f"/proc/{self.program.pid}/statm").read_text().split()[1])
            descriptors = len(list(Path(f"/proc/{self.program.pid}/fd").iterdir()))
            return {"rss": pages * os.sysconf("SC_PAGE_SIZE"), "fds": descriptors}
        except OSError:
            return {}


class Replicas:
    """The seats. `arm`: whether new processes get failpoints. `focus`: additional failpoints, then for all processes."""

    def __init__(self, world: World, findings: Findings, rng: random.Random, seats: int, focus: Sequence[str]) -> None:
        self.arm = True
        self._world = world
        self._findings = findings
        self._rng = rng
        self._focus = focus
        self._seats: dict[int, Replica] = {}
        self._spawned = 0
        self._closing = False
        self._continues: set[asyncio.Task[None]] = set()
        self._keepers = [asyncio.create_task(self._keep(seat)) for seat in range(1, seats + 1)]

    @property
    def alive(self) -> list[Replica]:
        """The usable processes."""
        return [replica for replica in self._seats.values() if replica.usable]

    def any(self) -> Replica | None:
        """Return a random usable process."""
        return self._rng.choice(self.alive) if self.alive else None

    async def all_ready(self) -> None:
        """Wait until every seat holds a process that is ready."""
        async with asyncio.timeout(120):
            while len(self.alive) < len(self._keepers) or not all(replica.base for replica in self.alive):
                await asyncio.sleep(0.05)

    def stop(self, replica: Replica, seconds: float) -> None:
        """Send SIGSTOP now and SIGCONT after `seconds`."""
        replica.program.send(signal.SIGSTOP)
        task = asyncio.create_task(self._continue(replica, seconds))
        self._continues.add(task)
        task.add_done_callback(self._continues.discard)

    def end(self, replica: Replica) -> None:
        """Send SIGTERM; not ending in time is a violation."""
        replica.asked_to_end = True
        replica.program.send(signal.SIGTERM)

    async def heal(self) -> None:
        """Continue stopped processes, and replace processes with failpoints by processes without."""
        self.arm = False
        while self._continues:
            await asyncio.wait(self._continues)
        for replica in list(self._seats.values()):
            if replica.armed:
                self.end(replica)
        async with asyncio.timeout(2 * _END_SECONDS):
            while any(replica.armed for replica in self._seats.values()) or len(self.alive) < len(self._keepers):
                await asyncio.sleep(0.05)
        await self.all_ready()

    async def close(self, number: signal.Signals) -> None:
        """End all processes permanently."""
        self._closing = True
        for replica in list(self._seats.values()):
            replica.asked_to_end = True
            replica.program.send(number)
            if number is signal.SIGKILL:
                replica.program.send(signal.SIGCONT)
        async with asyncio.timeout(2 * _END_SECONDS):
            await asyncio.gather(*self._keepers)
        for task in self._continues:
            task.cancel()

    async def _continue(self, replica: Replica, seconds: float) -> None:
        await asyncio.sleep(seconds)
        replica.program.send(signal.SIGCONT)

    async def _keep(self, seat: int) -> None:
        while not self._closing:
            replica = await self._spawn(seat)
            based = asyncio.create_task(self._measure(replica))
            await self._until_ended(replica)
            based.cancel()
            del self._seats[seat]
            await asyncio.to_thread(self._file_log, replica)
            if not self._closing:
                await asyncio.sleep(self._rng.uniform(0, 0.3))

    async def _spawn(self, seat: int) -> Replica:
        self._spawned += 1
        name = f"{seat}.{self._spawned}"
        armed = self.arm and self._rng.random() < (1 if self._focus else 0.75)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "serve"),
            cwd=self._world.code,
            env=self._world.environment(name, specification(self._rng, self._focus) if armed else ""),
            stderr=asyncio.subprocess.PIPE,
            limit=2**20,
        )
        replica = self._seats[seat] = Replica(name, Program(process), armed=armed)
        self._findings.counts["processes"] += 1
        return replica

    async def _measure(self, replica: Replica) -> None:
        """Record what a process holds once it is ready."""
        while not replica.program.events("started"):
            await asyncio.sleep(0.1)
        replica.base = replica.memory_and_files()

    async def _until_ended(self, replica: Replica) -> None:
        asked_at: float | None = None
        code: int | None = None
        while code is None:
            try:
                async with asyncio.timeout(0.5):
                    code = await replica.program._process.wait()
            except TimeoutError:
                now = time.monotonic()
                asked_at = (asked_at or now) if replica.asked_to_end else None
                if asked_at is not None and now - asked_at > _END_SECONDS:
                    detail = f"replica {replica.name} did not end within {_END_SECONDS:.0f} s of SIGTERM"
                    self._findings.violation("I16", detail)
                    replica.program.send(signal.SIGKILL)
        await replica.program.ended()
        if code == -signal.SIGKILL:
            self._findings.counts["killed"] += 1
        elif not replica.asked_to_end or code not in (0, -signal.SIGTERM):  # -SIGTERM: it had not installed its handlers yet
            self._findings.violation("I14", f"replica {replica.name} ended by itself with code {code}")

    def _file_log(self, replica: Replica) -> None:
        with (self._world.directory / f"replica-{replica.name}.log").open("w") as file:
            for entry in replica.program.log:
                event = entry.get("event", "")
                if event in _CRASHES or (event == "text" and "Traceback" in entry["text"]):
                    self._findings.counts[f"logged {event}"] += 1
                if event == "failpoint":
                    self._findings.counts[f"failpoint {entry['action']}"] += 1
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")


@asynccontextmanager
async def replicas(
    world: World, findings: Findings, rng: random.Random, seats: int, focus: Sequence[str] = ()
) -> AsyncIterator[Replicas]:
    """Run the processes inside the block; they are killed at its end if they still run."""
    made = Replicas(world, findings, rng, seats, focus)
    try:
        yield made
    finally:
        await made.close(signal.SIGKILL)

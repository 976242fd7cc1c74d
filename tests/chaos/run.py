"""One run: start everything, inject faults for a while, stop the faults, let all exports end, and check."""

import asyncio
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from tests.chaos.actions import Actions
from tests.chaos.consumers import Consumers
from tests.chaos.findings import Findings
from tests.chaos.focus import NOWHERE, Focus
from tests.chaos.hooks import Hooks, hooks
from tests.chaos.invariants import Invariants
from tests.chaos.leftovers import Leftovers
from tests.chaos.replicas import Replicas, replicas
from tests.chaos.sampling import Sampling
from tests.chaos.spaces import make_spaces
from tests.chaos.world import EXPORT_SLOTS, LEASE_SECONDS, SWEEP_SECONDS, World, world
from tests.chaos.writers import WRITERS, Writer

_DRAIN_SECONDS = 30.0
"""Added to the computed duration of the backlog: retry delays, and a busy machine."""
_LIMIT_SECONDS = 180.0
_EVIDENCE = {
    "jobs": "SELECT * FROM export_jobs ORDER BY id",
    "attempts": "SELECT * FROM export_attempts ORDER BY started_at",
    "history": "SELECT * FROM chaos.history ORDER BY n",
    "webhooks": "SELECT * FROM webhook_deliveries ORDER BY id",
    "sessions": "SELECT * FROM pg_stat_activity WHERE datname = current_database()",
}


@dataclass(frozen=True)
class Plan:
    """The parameters of a run. `code` contains the `service` and `sql` under test."""

    seconds: float
    seed: int
    replicas: int
    stop_at_first: bool
    code: Path
    focus: Focus = NOWHERE


def _short_directory() -> Path:
    """Create a directory that the server's user can enter; the path of a socket must be short."""
    directory = Path(tempfile.mkdtemp(prefix="contact-exports-chaos-", dir="/tmp"))
    directory.chmod(0o755)
    return directory


class Run:
    """The parts of one run, created and closed by `run`."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._say = say
        self.findings = Findings()

    async def run(self) -> dict[str, Any]:
        """Return the report; after a violation it names a directory with the rows and the logs."""
        directory = _short_directory()
        try:
            async with world(self._plan.code, directory) as made:
                await self._in(made)
        finally:
            kept = self._keep(directory) if self.findings.violations else None
            shutil.rmtree(directory, ignore_errors=True)
        return self._report(kept)

    async def _in(self, made: World) -> None:
        rng = random.Random(self._plan.seed)
        # Each part has its own generator, so that the speed of one does not change the others.
        seeds = [random.Random(rng.random()) for _ in range(5 + WRITERS)]
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(made.connection())
            spaces = await make_spaces(session, made.url)
            live = spaces.live.space_id
            writers = [Writer(made, seeds[5 + n], n + 1, live) for n in range(WRITERS)]
            await asyncio.gather(*(writer.begun() for writer in writers))
            processes = await stack.enter_async_context(
                replicas(made, self.findings, seeds[0], self._plan.replicas, self._plan.focus.failpoints)
            )
            await processes.all_ready()
            received = await stack.enter_async_context(hooks(made, self.findings, seeds[4]))
            await received.set_endpoints(session, [*spaces.still, spaces.live, spaces.quiet])
            consumers = Consumers(processes, self.findings, seeds[1], spaces)
            stack.push_async_callback(consumers.close)
            sampling = Sampling(made, self.findings)
            stack.push_async_callback(sampling.close)
            self.findings.started_at = time.monotonic()
            made.break_store(seeds[2])
            self._say(f"seed {self._plan.seed}: {self._plan.seconds:g} s with {self._plan.replicas} replicas")
            actions = Actions(made, self.findings, seeds[3], processes, consumers, weights=self._plan.focus.actions)
            await actions.run(self._enough)
            if not self._stopped:
                await self._heal(made, processes, consumers, writers, sampling, received)
            async with made.connection() as last:
                await self._evidence(made, last)

    @property
    def _stopped(self) -> bool:
        return self._plan.stop_at_first and bool(self.findings.violations)

    def _enough(self) -> bool:
        return self._stopped or self.findings.elapsed > self._plan.seconds

    async def _heal(
        self,
        made: World,
        processes: Replicas,
        consumers: Consumers,
        writers: list[Writer],
        sampling: Sampling,
        received: Hooks,
    ) -> None:
        self._say(f"faults stopped; {len(self.findings.violations)} violations so far")
        made.faults.heal()
        received.heal()
        async with made.connection() as session:
            queued = await session.fetchval("SELECT count(*) FROM export_jobs WHERE status IN ('queued', 'processing')")
            self.findings.figures["backlog"] = queued
            await processes.heal()
            started = time.monotonic()
            quiet = consumers.ask(consumers.spaces.quiet)
            await consumers.finished()
            await self._drain(session, queued, started)
            self._say(f"all exports ended after {self.findings.figures['drain_seconds']} s; checking")
            for writer in writers:
                await writer.stop()
            self.findings.counts["writes"] = sum(len(writer.writes) for writer in writers)
            await self._check_wait(session, quiet.export_id)
            leftovers = Leftovers(made, self.findings, session)
            await leftovers.check_store()
            await Invariants(made, self.findings, session).check(consumers.wishes, consumers.spaces, writers)
            await received.check(session)
            await sampling.close()
            await sampling.oracle_violations(session)
            await sampling.published_files(session)
            await leftovers.check_sessions()
            leftovers.check_processes(processes)
            self.findings.counts.update({f"responses {status}": n for status, n in consumers.responses.items()})
        self.findings.counts.update({f"store {name}": n for name, n in made.faults.met.items()})
        await processes.close(signal.SIGTERM)

    async def _drain(self, session: asyncpg.Connection, queued: int, started: float) -> None:
        """I16: the backlog is completed in a time proportional to its size."""
        longest = await session.fetchval(
            "SELECT extract(epoch FROM max(ended_at - started_at))::float8 FROM export_attempts"
        )
        slots = self._plan.replicas * EXPORT_SLOTS
        allowed = min(LEASE_SECONDS + SWEEP_SECONDS + longest * (1 + queued / slots) + _DRAIN_SECONDS, _LIMIT_SECONDS)
        unfinished = "SELECT count(*) FROM export_jobs WHERE status IN ('queued', 'processing')"
        while await session.fetchval(unfinished) and time.monotonic() - started < allowed:
            await asyncio.sleep(0.1)
        self.findings.figures["drain_seconds"] = round(time.monotonic() - started, 1)
        if left := await session.fetchval(unfinished):
            self.findings.violation("I16", f"{left} exports did not end within {allowed:.0f} s")

    async def _check_wait(self, session: asyncpg.Connection, export_id: int | None) -> None:
        """I17: the only export of a Space waits at most twice the longest attempt, a lease and 10 s."""
        wait, longest = await session.fetchrow(
            """SELECT extract(epoch FROM min(a.started_at) - min(j.created_at))::float8,
                      (SELECT extract(epoch FROM max(ended_at - started_at))::float8 FROM export_attempts)
                 FROM export_jobs j JOIN export_attempts a ON a.job_id = j.id WHERE j.id = $1""",
            export_id,
        ) or (None, None)
        self.findings.figures |= {
            "quiet_wait_seconds": round(wait or 0, 2),
            "longest_attempt_seconds": round(longest or 0, 1),
        }
        if wait is None or longest is None or wait > 2 * longest + LEASE_SECONDS + 10:
            self.findings.violation("I17", f"a quiet Space waited {wait} s; the longest attempt took {longest} s")

    async def _evidence(self, made: World, session: asyncpg.Connection) -> None:
        if not self.findings.violations:
            return
        for name, query in _EVIDENCE.items():
            rows = [dict(row) for row in await session.fetch(query)]
            (made.directory / f"{name}.json").write_text("\n".join(json.dumps(row, default=str) for row in rows))

    def _keep(self, directory: Path) -> Path:
        kept = Path(tempfile.mkdtemp(prefix=f"contact-exports-chaos-seed-{self._plan.seed}-"))
        for file in [*directory.glob("*.log"), *directory.glob("*.json")]:
            shutil.copy(file, kept)
        return kept

    def _report(self, kept: Path | None) -> dict[str, Any]:
        found = self.findings
        return {
            "seed": self._plan.seed,
            "seconds": self._plan.seconds,
            "replicas": self._plan.replicas,
            "violations": found.violations,
            "first_violation_after": found.first_after,
            "actions": dict(sorted(found.actions.items())),
            "counts": dict(sorted(found.counts.items())),
            **found.figures,
            "evidence": kept and str(kept),
        }

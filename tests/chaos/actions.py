"""The faults and the requests of a run: one action after another, drawn from the seed."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping

from tests.chaos.consumers import Consumers
from tests.chaos.findings import Findings
from tests.chaos.replicas import Replicas
from tests.chaos.world import LEASE_SECONDS, TROUBLE, World

_PAUSE = (0.1, 0.8)
_STOPPED = (0.5, 5.0)
_BACKLOG = 25
"""Number of unfinished exports from which no more are requested, because all must be completed in the end."""
_TERMINATE = """
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend' AND random() < 0.5
"""
_UNFINISHED = "SELECT count(*) FROM export_jobs WHERE status IN ('queued', 'processing')"

_KICK = "SELECT kick_export(id) FROM export_jobs WHERE status = 'processing' ORDER BY random() LIMIT 1"

_EXPIRE = "SELECT cancel_export(max(id)) FROM export_jobs WHERE status = 'completed'"
"""Expires the latest export that completed: its webhook may not have been delivered yet."""


class Actions:
    """The number next to each action is its relative frequency; `weights` replaces some of these numbers."""

    def __init__(
        self,
        world: World,
        findings: Findings,
        rng: random.Random,
        replicas: Replicas,
        consumers: Consumers,
        *,
        weights: Mapping[str, float],
    ) -> None:
        self._world = world
        self._findings = findings
        self._rng = rng
        self._replicas = replicas
        self._consumers = consumers
        self._kinds: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "ask": (30, self._ask),
            "poll": (12, self._poll),
            "cancel": (8, self._cancel),
            "kick": (3, self._kick),
            "expire": (2, self._expire),
            "kill": (6, self._kill),
            "stop": (9, self._stop),
            "end": (5, self._end),
            "terminate_backends": (8, self._terminate_backends),
            "restart_fast": (0.7, self._restart_fast),
            "restart_immediate": (0.7, self._restart_immediate),
        }
        self._weights = {name: weights.get(name, usual) for name, (usual, _) in self._kinds.items()}

    async def run(self, until: Callable[[], bool]) -> None:
        """Act until `until` returns True."""
        while not until():
            (name,) = self._rng.choices(list(self._weights), list(self._weights.values()))
            try:
                await self._kinds[name][1]()
                self._findings.actions[name] += 1
            except TROUBLE:  # Postgres is down, which is intended
                self._findings.actions[f"{name}, failed"] += 1
            await asyncio.sleep(self._rng.uniform(*_PAUSE))

    async def _ask(self) -> None:
        async with self._world.connection() as session:
            if await session.fetchval(_UNFINISHED) >= _BACKLOG:
                return
        for _ in range(self._rng.randint(1, 4)):
            self._consumers.ask()

    async def _poll(self) -> None:
        self._consumers.start(self._consumers.poll())

    async def _cancel(self) -> None:
        self._consumers.start(self._consumers.cancel())

    async def _kick(self) -> None:
        async with self._world.connection() as session:
            await session.execute(_KICK)

    async def _expire(self) -> None:
        async with self._world.connection() as session:
            await session.execute(_EXPIRE)

    async def _kill(self) -> None:
        if replica := self._replicas.any():
            replica.program.send(signal.SIGKILL)

    async def _stop(self) -> None:
        if replica := self._replicas.any():
            self._replicas.stop(replica, self._rng.uniform(*_STOPPED))

    async def _end(self) -> None:
        if replica := self._replicas.any():
            self._replicas.end(replica)

    async def _terminate_backends(self) -> None:
        async with self._world.connection() as session:
            self._findings.counts["backends terminated"] += await session.fetchval(_TERMINATE)

    async def _restart_fast(self) -> None:
        await self._world.restart_postgres("fast", down=self._down_seconds())

    async def _restart_immediate(self) -> None:
        await self._world.restart_postgres("immediate", down=self._down_seconds())

    def _down_seconds(self) -> float:
        """Usually shorter than a lease, sometimes longer."""
        return self._rng.choice((0, 0, 0.5, 1, 1.5 * LEASE_SECONDS))

"""Checks while faults happen: the oracle's records, and that published files exist and do not change."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg

from tests.chaos.findings import Findings
from tests.chaos.world import TROUBLE, World

_ORACLE_SECONDS = 0.25
_STORE_SECONDS = 1.0
_PUBLISHED = "SELECT id, object_name FROM export_jobs WHERE status = 'completed'"


class Sampling:
    """Two periodic checks that run until `close`."""

    def __init__(self, world: World, findings: Findings) -> None:
        self._world = world
        self._findings = findings
        self._seen = 0
        self._objects: dict[str, str] = {}
        self._tasks = [
            asyncio.create_task(self._repeat(self.oracle_violations, _ORACLE_SECONDS)),
            asyncio.create_task(self._repeat(self.published_files, _STORE_SECONDS)),
        ]

    async def close(self) -> None:
        """Stop the checks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def oracle_violations(self, session: asyncpg.Connection) -> None:
        """Report what the triggers recorded since the last check."""
        for row in await session.fetch("SELECT * FROM chaos.violations WHERE n > $1 ORDER BY n LIMIT 100", self._seen):
            self._seen = row["n"]
            self._findings.violation(row["invariant"], row["detail"])

    async def published_files(self, session: asyncpg.Connection) -> None:
        """Check that published objects exist and are unchanged.

        The rows are read before the store is listed, and rows with a missing object once more after it.
        """
        before = {row["id"]: row["object_name"] for row in await session.fetch(_PUBLISHED)}
        there = await self._world.objects()
        for name, state in there.items():
            if self._objects.setdefault(name, state) != state:
                self._findings.violation("I11", f"{name} was overwritten")
        missing = {export_id: name for export_id, name in before.items() if name not in there}
        if missing:
            for row in await session.fetch(f"{_PUBLISHED} AND id = ANY ($1::bigint[])", list(missing)):
                self._findings.violation("I4", f"export {row['id']} is completed, but its object does not exist")
        self._findings.counts["checks of the store"] += 1

    async def _repeat(self, check: Callable[[asyncpg.Connection], Awaitable[None]], seconds: float) -> None:
        while True:
            try:
                async with self._world.connection() as session:
                    while True:
                        async with asyncio.timeout(20):
                            await check(session)
                        await asyncio.sleep(seconds)
            except TROUBLE:
                await asyncio.sleep(0.1)

"""Checks after all exports have ended: nothing is left in the store, on the database, or in the processes."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from unittest import mock

import asyncpg

from service.exports import leftovers
from service.postgres.claims import Claims
from service.postgres.pool import Database
from tests.chaos.findings import Findings
from tests.chaos.replicas import Replicas
from tests.chaos.world import World

_SECONDS = 60.0
_MORE_BYTES = 96 * 1024 * 1024
_MORE_FILES = 48
"""What a process may hold in addition to what it held when ready: a pool of nine sessions, store connections."""

_SESSIONS = """
SELECT application_name || ', ' || coalesce(state, '') FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND (application_name = 'contact-exports export' OR state LIKE 'idle in transaction%')
"""
_ADVISORY = "SELECT format('%s %s', classid, objid) FROM pg_locks WHERE locktype = 'advisory'"
_UNCLEAN = "SELECT claim_id::text FROM export_attempts WHERE cleaned_at IS NULL"
_UNDELETED = "SELECT id::text FROM export_jobs WHERE status = 'expired' AND file_deleted_at IS NULL"


class Leftovers:
    """Each check waits up to a minute until nothing is left."""

    def __init__(self, world: World, findings: Findings, session: asyncpg.Connection) -> None:
        self._world = world
        self._findings = findings
        self._session = session

    async def check_store(self) -> None:
        """I10: the leftovers of recorded attempts are removed; uploads that no attempt knows are aborted by age."""
        await self._until_none("I10", "attempts are not cleaned", lambda: self._rows(_UNCLEAN))
        await self._until_none("I10", "files of expired exports are not deleted", lambda: self._rows(_UNDELETED))
        left = await self._world.uploads()
        self._findings.counts["uploads aborted by age"] += len(left)
        if left:
            await self._abort_abandoned()
            await self._until_none("I10", "uploads are left over", self._world.uploads)

    async def check_sessions(self) -> None:
        """I14: no snapshot, no idle transaction and no advisory lock is left."""
        await self._until_none("I14", "sessions are left over", lambda: self._rows(_SESSIONS))
        await self._until_none("I14", "advisory locks are held", lambda: self._rows(_ADVISORY))

    def check_processes(self, replicas: Replicas) -> None:
        """I15: every process holds about as much memory and as many descriptors as when it was ready."""
        for replica in replicas.alive:
            now = replica.memory_and_files()
            more = {name: now[name] - replica.base[name] for name in now if replica.base}
            for name, allowed in (("rss", _MORE_BYTES), ("fds", _MORE_FILES)):
                grown = more.get(name, 0)
                self._findings.figures[f"{name}_grown"] = max(grown, self._findings.figures.get(f"{name}_grown", 0))
                if grown > allowed:
                    self._findings.violation("I15", f"replica {replica.name} holds {grown} more {name} than at startup")

    async def _abort_abandoned(self) -> None:
        """Abort unknown uploads as every replica does, but as if an hour had passed."""
        async with (
            self._world.store() as store,
            Database(self._world.url, application_name="chaos sweep", size=1) as database,
        ):
            tidy = leftovers.Leftovers(Claims(database, renewals=database), store, grace=timedelta(0))
            with mock.patch.object(leftovers, "ABANDONED_AFTER", timedelta(seconds=-5)):
                await tidy.abort_abandoned()

    async def _rows(self, query: str) -> list[str]:
        return [row[0] for row in await self._session.fetch(query)]

    async def _until_none(self, invariant: str, what: str, find: Callable[[], Awaitable[list[str]]]) -> None:
        try:
            async with asyncio.timeout(_SECONDS):
                while await find():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._findings.violation(invariant, f"{what}: {', '.join((await find())[:10])}")

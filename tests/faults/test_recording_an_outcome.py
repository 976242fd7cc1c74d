"""An attempt that is stopped more than once while it records its outcome records it once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from service.exports.attempt import AttemptLimits, Attempts
from service.exports.lease import Ending, Leases
from service.exports.periodic import boot_clock
from service.exports.priority import RequestPriority
from service.model import Claim
from service.postgres.contact_source import ContactSource
from service.storage.directory import DirectoryStore
from tests.support.jobs import JobTable, holding, job_table, release, until_waited_for
from tests.support.stores import link_secret
from tests.support.waiting import until_row

LEASE = timedelta(minutes=1)
NOTHING = timedelta(0)
NO_ACTIVE_SESSION = """SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid())"""


@dataclass
class Recording:
    """An attempt with a complete file whose last write waits for a row that another session has locked."""

    jobs: JobTable
    claim: Claim
    leases: Leases
    task: "asyncio.Task[None]"

    async def row(self) -> tuple[object, ...]:
        """Return the states of the job and of its attempt."""
        job, attempt = await self.jobs.job(self.claim.export_id), await self.jobs.attempt(self.claim)
        return job["status"], attempt["outcome"], job["handed_back"], job["lost_leases"]


@asynccontextmanager
async def recording(jobs: JobTable, directory: Path) -> AsyncIterator[Recording]:
    """Start an attempt that records its outcome; the locked row is released at the end of the block."""
    store = DirectoryStore(directory, link_secret, LEASE)
    await store.create()
    leases = Leases(jobs.claims, duration=LEASE, no_progress=LEASE)
    limits = AttemptLimits(part_size=16 * 1024, duration=LEASE, retry_pause=NOTHING, file_lifetime=LEASE)
    attempts = Attempts(jobs.claims, leases, ContactSource(jobs.url, LEASE), store, RequestPriority(), limits)
    claim = await jobs.claimed()
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {claim.export_id} FOR UPDATE") as holder:
        task = asyncio.create_task(attempts.run(claim, sent=boot_clock()))
        await until_waited_for(jobs.sql, holder)
        yield Recording(jobs, claim, leases, task)
        await release(holder)
    await asyncio.wait({task})


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of this test's database."""
    async with job_table(database_url) as table:
        yield table


async def test_an_attempt_told_to_stop_twice_while_recording_its_outcome_completes_once(
    jobs: JobTable, tmp_path: Path
) -> None:
    async with recording(jobs, tmp_path) as attempt:
        attempt.leases.end_all(Ending.SHUTDOWN)
        attempt.leases.end_all(Ending.LOST)
    assert attempt.task.exception() is None
    assert await attempt.row() == ("completed", "completed", 0, 0)


async def test_an_attempt_cancelled_twice_while_recording_its_outcome_records_it_fully_or_loses_its_lease(
    jobs: JobTable, tmp_path: Path
) -> None:
    async with recording(jobs, tmp_path) as attempt:
        attempt.task.cancel()
        await asyncio.sleep(0)
        attempt.task.cancel()
        await asyncio.wait({attempt.task})
    assert attempt.task.cancelled()
    await until_row(jobs.sql, NO_ACTIVE_SESSION)  # the server may execute the write although the client is gone
    if await attempt.row() != ("completed", "completed", 0, 0):
        assert await attempt.row() == ("processing", None, 0, 0)
        await jobs.lose(attempt.claim)
        assert await attempt.row() == ("queued", "lost", 0, 1)

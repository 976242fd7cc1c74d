"""Lock order: every write locks the row of the export, then the row of the attempt. This prevents deadlocks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from itertools import product

import asyncpg
import pytest

from service.failures import StorageUnavailable
from service.model import Claim
from service.postgres.claims import Renewal
from service.postgres.export_jobs import ExportJobs
from tests.support.jobs import JobTable, holding, job_table, release, until_waited_for
from tests.support.waiting import until

NO_PAUSE = timedelta(0)
SECONDS = 10
"""Longer than the server needs to detect a deadlock and to end one of its sessions."""

BOTH_WAIT = """
SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""

Write = Callable[[JobTable, Claim], Awaitable[object]]


async def rescue(jobs: JobTable, claim: Claim) -> bool:
    return claim.claim_id in {each.claim_id for each in await jobs.claims.rescue(pause=NO_PAUSE)}


async def cancel(jobs: JobTable, claim: Claim) -> bool:
    cancelled = await ExportJobs(jobs.database).cancel(claim.export_id, None)
    return cancelled is not None and cancelled.claim_id == claim.claim_id


async def kick(jobs: JobTable, claim: Claim) -> bool:
    async with jobs.database.connection() as connection:
        kicked = await connection.fetchval("SELECT claim_id FROM kick_export($1)", claim.export_id)
    return bool(kicked == claim.claim_id)


async def renew(jobs: JobTable, claim: Claim) -> bool:
    return await jobs.renew(claim) is Renewal.RENEWED


WAITING: dict[str, Write] = {
    "complete": lambda jobs, claim: jobs.complete(claim),
    "try again": lambda jobs, claim: jobs.claims.end_in_error(claim, StorageUnavailable(), pause=NO_PAUSE),
    "hand back": lambda jobs, claim: jobs.claims.hand_back(claim),
    "cancel": cancel,
    "kick": kick,
}
"""Writes that wait for the lock of the export's row."""
PASSING: dict[str, Write] = {"rescue": rescue, "renew": renew}
"""Writes that skip a locked row."""
ENDINGS: dict[str, Write] = {**WAITING, "rescue": rescue}
"""Writes that end an attempt."""


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


async def abandoned(jobs: JobTable) -> Claim:
    """A claim that every one of these writes may end: its lease has expired and was not rescued."""
    return await jobs.claimed(lease_until="now() - interval '1 minute'")


def locked(claim: Claim, table: str) -> str:
    """A statement that locks the row of the export or of the attempt."""
    where = {"export_jobs": f"id = {claim.export_id}", "export_attempts": f"claim_id = '{claim.claim_id}'"}
    return f"SELECT FROM {table} WHERE {where[table]} FOR UPDATE"


@pytest.mark.parametrize("write", WAITING)
async def test_a_write_that_waits_for_the_export_has_not_locked_the_attempt(jobs: JobTable, write: str) -> None:
    claim = await abandoned(jobs)
    async with holding(jobs.url, locked(claim, "export_jobs")) as other:
        writing = asyncio.ensure_future(WAITING[write](jobs, claim))
        await until_waited_for(jobs.sql, other)
        await other.execute(f"{locked(claim, 'export_attempts')} NOWAIT")
    assert await writing


@pytest.mark.parametrize("write", PASSING)
async def test_a_write_that_skips_a_locked_export_waits_for_nothing(jobs: JobTable, write: str) -> None:
    claim = await abandoned(jobs)
    async with (
        holding(jobs.url, locked(claim, "export_jobs")),
        holding(jobs.url, locked(claim, "export_attempts")),
        asyncio.timeout(SECONDS),
    ):
        assert not await PASSING[write](jobs, claim)
    assert await PASSING[write](jobs, claim)


@pytest.mark.parametrize("write", ENDINGS)
async def test_a_write_that_waits_for_the_attempt_has_locked_the_export(jobs: JobTable, write: str) -> None:
    claim = await abandoned(jobs)
    async with holding(jobs.url, locked(claim, "export_attempts")) as other:
        writing = asyncio.ensure_future(ENDINGS[write](jobs, claim))
        await until_waited_for(jobs.sql, other)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await jobs.sql.execute(f"{locked(claim, 'export_jobs')} NOWAIT")
    assert await writing


async def test_of_any_two_concurrent_writes_the_first_counts_and_none_deadlocks(jobs: JobTable) -> None:
    for first, second in product(ENDINGS, ENDINGS | PASSING):
        claim = await abandoned(jobs)
        async with holding(jobs.url, locked(claim, "export_attempts")) as other, asyncio.timeout(SECONDS):
            ending = asyncio.ensure_future(ENDINGS[first](jobs, claim))
            await until_waited_for(jobs.sql, other)
            meanwhile = asyncio.ensure_future((ENDINGS | PASSING)[second](jobs, claim))
            if second in WAITING:
                await until(lambda: jobs.sql.fetchval(BOTH_WAIT))
            else:
                assert not await meanwhile
            await release(other)
            assert (bool(await ending), bool(await meanwhile)) == (True, False), (first, second)
        await jobs.sql.execute("DELETE FROM export_jobs")

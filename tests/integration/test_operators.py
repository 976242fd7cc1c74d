"""Views and functions for operators."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from service.failures import StorageUnavailable
from service.postgres.claims import Progress, Renewal
from service.postgres.processes import Process, Processes
from tests.support.jobs import JobTable, job_table

NO_PAUSE = timedelta(0)


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


async def kick(jobs: JobTable, export_id: int) -> asyncpg.Record | None:
    """The result of kicking an export."""
    return await jobs.sql.fetchrow("SELECT * FROM kick_export($1)", export_id)


# Views ---------------------------------------------------------------------------------------------------------------


async def test_exports_running_shows_worker_and_progress(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.queue(await jobs.space())
    await jobs.renew(claim, Progress(phase="reading", rows_read=500, bytes_stored=9, rows_estimated=2000))
    (row,) = await jobs.sql.fetch("SELECT * FROM exports_running")
    assert (row["export_id"], row["worker"], row["phase"]) == (claim.export_id, "a worker", "reading")
    assert (row["rows_read"], row["rows_estimated"], row["abandoned"]) == (500, 2000, False)
    await jobs.set(claim.export_id, lease_until="now() - interval '1 second'")
    assert await jobs.sql.fetchval("SELECT abandoned FROM exports_running")


def process(export_slots: int, space_slots: int) -> Process:
    """A process with these settings."""
    return Process(f"worker {export_slots} {space_slots}", "1.2.3", export_slots, space_slots)


async def reasons(jobs: JobTable) -> dict[int, tuple[str, str]]:
    """Why each Space waits, and what the overview says of its oldest queued export."""
    rows = await jobs.sql.fetch(
        """SELECT w.space_id, w.waits_for, o.summary
             FROM exports_waiting w JOIN export_overview o ON o.export_id = w.oldest_export_id"""
    )
    return {row["space_id"]: (row["waits_for"], row["summary"]) for row in rows}


LIMITED = ("concurrency limit of the Space reached", "waiting: concurrency limit of the Space reached")
FREE = ("a free slot", "waiting for a free slot")
NO_PROCESS = ("a process: none that runs exports was seen in the last minute", "waiting: no process runs exports")


async def test_exports_waiting_shows_why_each_space_waits(jobs: JobTable) -> None:
    await Processes(jobs.database).announce(process(4, 2))
    free, full, paused, failing = [await jobs.space(max_running=limit) for limit in (None, 1, 0, None)]
    await jobs.queue(full)
    await jobs.claim()
    for space_id in (free, free, full, paused):
        await jobs.queue(space_id)
    await jobs.queue(failing, run_after="now() + interval '1 minute'", attempts=1)
    await jobs.space()
    rows = {row["space_id"]: row for row in await jobs.sql.fetch("SELECT * FROM exports_waiting")}
    assert {space_id: (row["queued"], row["ready"], row["running"]) for space_id, row in rows.items()} == {
        free: (2, 2, 0),
        full: (1, 1, 1),
        paused: (1, 1, 0),
        failing: (1, 0, 0),
    }
    assert await reasons(jobs) == {
        free: FREE,
        full: LIMITED,
        paused: ("the Space is paused", "waiting: the Space is paused"),
        failing: ("all exports are waiting for a retry", "waiting for a retry, 1 of 5 attempts used"),
    }


async def test_the_limit_of_space_slots_is_a_reason(jobs: JobTable) -> None:
    space_id = await jobs.space()
    for _ in range(3):
        await jobs.queue(space_id)
    await Processes(jobs.database).announce(process(4, 2))
    await jobs.claim()
    assert await reasons(jobs) == {space_id: FREE}
    await jobs.claim()
    assert await reasons(jobs) == {space_id: LIMITED}


async def test_without_a_process_that_runs_exports_every_export_waits_for_one(jobs: JobTable) -> None:
    space_id = await jobs.space()
    await jobs.queue(space_id)
    assert await reasons(jobs) == {space_id: NO_PROCESS}
    await Processes(jobs.database).announce(process(0, 2))
    assert await reasons(jobs) == {space_id: NO_PROCESS}, "it only serves requests"
    await Processes(jobs.database).announce(process(4, 2))
    assert await reasons(jobs) == {space_id: FREE}
    await jobs.sql.execute("UPDATE processes SET seen_at = now() - interval '61 seconds'")
    assert await reasons(jobs) == {space_id: NO_PROCESS}
    await jobs.queue(await jobs.space())
    await jobs.claim()
    assert NO_PROCESS not in (await reasons(jobs)).values(), "a process of an earlier version holds a lease"


async def test_a_process_is_announced_once_and_forgotten_a_day_after_its_end(jobs: JobTable) -> None:
    for slots in (1, 2, 2):
        await Processes(jobs.database).announce(process(slots, slots))
    await jobs.sql.execute("UPDATE processes SET seen_at = now() - interval '25 hours'")
    await Processes(jobs.database).announce(process(2, 2))
    (row,) = await jobs.sql.fetch("SELECT *, seen_at > now() - interval '5 seconds' AS alive FROM processes")
    assert (row["worker"], row["version"], row["export_slots"], row["alive"]) == ("worker 2 2", "1.2.3", 2, True)


async def test_attempts_lost_shows_the_reason(jobs: JobTable) -> None:
    lost = await jobs.claimed(phase="'reading'", rows_read=7)
    await jobs.lose(lost)
    again = await jobs.claim()
    assert again.export_id == lost.export_id
    await jobs.claims.end_in_error(again, StorageUnavailable(detail="503 SlowDown"), pause=timedelta(hours=1))
    await jobs.complete(await jobs.claimed())
    rows = await jobs.sql.fetch("SELECT * FROM attempts_lost ORDER BY started_at")
    assert [(row["claim_id"], row["outcome"], row["why"], row["export_status"]) for row in rows] == [
        (lost.claim_id, "lost", "worker_lost: the lease expired during phase reading", "queued"),
        (again.claim_id, "error", "storage_unavailable: 503 SlowDown", "queued"),
    ]
    assert (rows[0]["rows_read"], rows[0]["lost_leases"]) == (7, 1)


# Functions -----------------------------------------------------------------------------------------------------------


async def test_kicking_a_running_export_requeues_it_without_counting_the_attempt(jobs: JobTable) -> None:
    claim = await jobs.claimed(max_attempts=1)
    row = await kick(jobs, claim.export_id)
    assert row is not None
    assert tuple(row) == (claim.export_id, "processing", "queued", claim.claim_id)
    assert not await jobs.complete(claim)
    assert await jobs.renew(claim) is Renewal.LOST
    attempt = await jobs.attempt(claim)
    assert (attempt["outcome"], attempt["error_detail"]) == ("handed_back", "reclaimed manually")
    again = await jobs.claim()
    assert (again.export_id, again.attempt) == (claim.export_id, 1)
    assert [each.claim_id for each in await jobs.claims.leftovers(grace=NO_PAUSE)] == [claim.claim_id]


async def test_kicking_a_queued_export_skips_its_retry_delay(jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space(), run_after="now() + interval '1 hour'")
    assert await jobs.try_claim() is None
    await kick(jobs, export_id)
    assert (await jobs.claim()).export_id == export_id


async def test_kicking_a_finished_export_changes_nothing(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.complete(claim)
    before = await jobs.everything()
    assert await kick(jobs, claim.export_id) is None
    assert await kick(jobs, claim.export_id + 1) is None
    assert await jobs.everything() == before


async def test_retrying_creates_an_export_with_the_same_parameters_and_keeps_the_old_one(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    kept = ("timezone", "max_attempts", "start_date", "end_date")
    assert await jobs.sql.fetchval("SELECT retry_export($1)", claim.export_id) is None
    await jobs.cancel(claim.export_id)
    before = await jobs.job(claim.export_id)
    export_id = await jobs.sql.fetchval("SELECT retry_export($1)", claim.export_id)
    again = await jobs.claim()
    assert again.export_id == export_id != claim.export_id
    assert (again.space_id, again.window, again.extras) == (claim.space_id, claim.window, claim.extras)
    assert again.attempt == 1
    assert [(await jobs.job(export_id))[name] for name in kept] == [before[name] for name in kept]
    assert await jobs.job(claim.export_id) == before

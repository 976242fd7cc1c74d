"""The runner on a real database: it works while there is work, hears of more, survives errors, and ends as it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from service.exports.attempt import AttemptLimits, Attempts
from service.exports.lease import Leases
from service.exports.priority import RequestPriority
from service.exports.runner import Runner, RunnerLimits
from service.model import Claim
from service.postgres.claims import Claims
from service.postgres.snapshot import ContactSource
from service.storage.directory import DirectoryStore
from tests.support.jobs import JobTable, holding, job_table, release, until_waited_for
from tests.support.stores import link_secret
from tests.support.waiting import until, until_ended, until_row

LEASE = timedelta(minutes=1)
NEVER = 10_000.0
SNAPSHOTS_WAIT = "LOCK TABLE contacts"
"""An attempt stands still before it reads anything, while this is held."""


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


class CountedClaims(Claims):
    """Counts how often it was asked for work, and how often it has answered."""

    asked = 0
    answered = 0

    async def claim(self, worker: str, *, lease: timedelta, space_slots: int, alone: bool) -> Claim | None:
        self.asked += 1
        try:
            return await super().claim(worker, lease=lease, space_slots=space_slots, alone=alone)
        finally:
            self.answered += 1

    async def until_answered(self, times: int) -> None:
        async def answered() -> bool:
            return self.answered >= times

        await until(answered)


@dataclass
class Working:
    """A runner at work, the task in which it runs, and what it asks."""

    runner: Runner
    task: "asyncio.Task[None]"
    claims: CountedClaims

    async def wake_in_vain(self) -> None:
        """Wake it where it may not ask for work, and let it do what it wants to."""
        before = self.claims.asked
        self.runner.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.claims.asked == before


@asynccontextmanager
async def running(
    jobs: JobTable, directory: Path, *, slots: int = 2, poll: float = NEVER, rescue: float = NEVER
) -> AsyncIterator[Working]:
    """A runner at work, cancelled at the end."""
    claims = CountedClaims(jobs.database, renewals=jobs.database)
    store = DirectoryStore(directory, link_secret, LEASE)
    await store.create()
    leases = Leases(claims, duration=LEASE, no_progress=LEASE)
    limits = AttemptLimits(
        part_size=5 * 1024 * 1024, duration=LEASE, retry_pause=timedelta(hours=1), file_lifetime=timedelta(hours=1)
    )

    async def rescued() -> bool:
        return bool(await jobs.claims.rescue(pause=timedelta(0)))

    runner = Runner(
        claims,
        leases,
        Attempts(claims, leases, ContactSource(jobs.url, NEVER), store, RequestPriority(), limits),
        rescued,
        [],
        worker="a worker",
        limits=RunnerLimits(slots=slots, space_slots=64, lease=LEASE, poll=poll, rescue=rescue),
    )
    task = asyncio.create_task(runner.run())
    try:
        yield Working(runner, task, claims)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def processing(jobs: JobTable, count: int) -> None:
    """Returns once so many exports are being worked on and nothing is being claimed."""
    query = "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(*) = $1"
    await until_row(jobs.sql, query, count)


async def test_a_call_that_never_comes_back_makes_the_process_stuck(
    jobs: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Claim | None:
        await asyncio.Event().wait()
        return None

    async def stuck() -> bool:
        return working.runner.stuck == "claim"

    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_answered(2)
        monkeypatch.setattr(Claims, "claim", never)
        await working.claims.until_answered(working.claims.asked)
        assert working.runner.stuck is None
        monkeypatch.setattr("service.exports.runner._STUCK_SECONDS", 0.2)
        await until(stuck)


async def test_what_waits_at_the_start_is_done(jobs: JobTable, tmp_path: Path) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(5)]
    async with running(jobs, tmp_path):
        for export_id in exports:
            assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_what_is_queued_later_is_done_when_it_is_told(jobs: JobTable, tmp_path: Path) -> None:
    async with running(jobs, tmp_path) as working:
        await working.claims.until_answered(1)
        export_id = await jobs.queue(await jobs.space())
        working.runner.wake()
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_what_other_processes_queued_is_found_by_looking(jobs: JobTable, tmp_path: Path) -> None:
    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_answered(1)
        export_id = await jobs.queue(await jobs.space())
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_what_another_process_left_is_done_once_its_lease_ran_out(jobs: JobTable, tmp_path: Path) -> None:
    claim = await jobs.claimed(lease_until="now() + interval '1 second'")
    async with running(jobs, tmp_path, rescue=0.1):
        row = await until_ended(jobs.sql, claim.export_id)
    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)


async def test_no_more_are_claimed_than_there_are_slots(jobs: JobTable, tmp_path: Path) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(4)]
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path, slots=2) as working:
        await working.claims.until_answered(2)
        await processing(jobs, 2)
        await working.wake_in_vain()
        assert working.runner.running == 2
        await release(holder)
        for export_id in exports:
            assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_beside_an_export_that_must_run_alone_nothing_is_claimed(jobs: JobTable, tmp_path: Path) -> None:
    poison = await jobs.queue(await jobs.space(), lost_leases=2, run_after="now() - interval '1 hour'")
    other = await jobs.queue(await jobs.space())
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path) as working:
        await working.claims.until_answered(1)
        await processing(jobs, 1)
        await working.wake_in_vain()
        assert (await jobs.job(poison))["status"] == "processing"
        assert (await jobs.job(other))["status"] == "queued"
        await release(holder)
        assert (await until_ended(jobs.sql, other))["status"] == "completed"


async def test_a_claim_that_fails_for_an_unknown_reason_is_tried_again(jobs: JobTable, tmp_path: Path) -> None:
    await jobs.sql.execute("ALTER FUNCTION claim_export RENAME TO mislaid")
    export_id = await jobs.queue(await jobs.space())
    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_answered(2)
        await jobs.sql.execute("ALTER FUNCTION mislaid RENAME TO claim_export")
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


# The end -------------------------------------------------------------------------------------------------------------


async def test_a_runner_that_is_told_to_stop_finishes_what_it_works_on_and_claims_nothing_more(
    jobs: JobTable, tmp_path: Path
) -> None:
    first, second = await jobs.queue(await jobs.space()), await jobs.queue(await jobs.space())
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path, slots=1) as working:
        await working.claims.until_answered(1)
        working.runner.stop()
        await release(holder)
        await working.task
    assert (await jobs.job(first))["status"] == "completed"
    assert (await jobs.job(second))["status"] == "queued"


async def test_a_runner_that_is_told_to_hand_back_ends_with_its_exports_as_if_never_claimed(
    jobs: JobTable, tmp_path: Path
) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(2)]
    async with holding(jobs.url, SNAPSHOTS_WAIT), running(jobs, tmp_path) as working:
        await working.claims.until_answered(2)
        await processing(jobs, 2)
        working.runner.stop()
        working.runner.hand_back()
        await working.task
    for export_id in exports:
        job = await jobs.job(export_id)
        assert (job["status"], job["attempts"], job["handed_back"]) == ("queued", 0, 1)


async def test_an_export_that_is_just_being_claimed_is_handed_back_too(jobs: JobTable, tmp_path: Path) -> None:
    export_id = await jobs.queue(await jobs.space())
    claim_lock = "SELECT pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'))"
    async with (
        holding(jobs.url, SNAPSHOTS_WAIT),
        holding(jobs.url, claim_lock) as claimer,
        running(jobs, tmp_path) as working,
    ):
        await until_waited_for(jobs.sql, claimer)
        working.runner.stop()
        working.runner.hand_back()
        await release(claimer)
        async with asyncio.timeout(5):
            await working.task
    job = await jobs.job(export_id)
    # Not claimed at all, should the claim have given up before.
    assert (job["status"], job["attempts"], job["handed_back"]) in [("queued", 0, 1), ("queued", 0, 0)]

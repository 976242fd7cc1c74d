"""The runner on a real database: it claims while there is work, is woken, survives errors, and stops when told to."""

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
from service.exports.runner import Runner, RunnerOptions
from service.model import Claim
from service.postgres.claims import Claims
from service.postgres.contact_source import ContactSource
from service.storage.directory import DirectoryStore
from tests.support.jobs import JobTable, holding, job_table, release, until_waited_for
from tests.support.stores import link_secret
from tests.support.waiting import until_ended, until_row, until_true

LEASE = timedelta(minutes=1)
NEVER = 10_000.0
SNAPSHOTS_WAIT = "LOCK TABLE contacts"
"""While a session holds this lock, an attempt waits before its first read."""


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of this test's database."""
    async with job_table(database_url) as table:
        yield table


class CountedClaims(Claims):
    """Counts the claims that were sent and that returned."""

    sent = 0
    returned = 0

    async def claim(self, worker: str, *, lease: timedelta, space_slots: int, alone: bool) -> Claim | None:
        self.sent += 1
        try:
            return await super().claim(worker, lease=lease, space_slots=space_slots, alone=alone)
        finally:
            self.returned += 1

    async def until_returned(self, times: int) -> None:
        await until_true(lambda: self.returned >= times)


@dataclass
class Working:
    """A runner, its task, and its claims."""

    runner: Runner
    task: "asyncio.Task[None]"
    claims: CountedClaims

    async def assert_wake_claims_nothing(self) -> None:
        """Wake the runner while it must not claim, and let it react."""
        before = self.claims.sent
        self.runner.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.claims.sent == before


@asynccontextmanager
async def running(
    jobs: JobTable, directory: Path, *, slots: int = 2, poll: float = NEVER, rescue: float = NEVER
) -> AsyncIterator[Working]:
    """Run a runner; it is cancelled at the end of the block."""
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
        Attempts(claims, leases, ContactSource(jobs.url, timedelta(seconds=NEVER)), store, RequestPriority(), limits),
        rescued,
        [],
        RunnerOptions(
            worker="a worker",
            slots=slots,
            space_slots=64,
            lease=LEASE,
            poll=timedelta(seconds=poll),
            rescue=timedelta(seconds=rescue),
        ),
    )
    task = asyncio.create_task(runner.run())
    try:
        yield Working(runner, task, claims)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_processing(jobs: JobTable, count: int) -> None:
    """Wait until this many exports are processing."""
    query = "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(*) = $1"
    await until_row(jobs.sql, query, count)


async def test_a_call_that_never_returns_makes_the_process_stuck(
    jobs: JobTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> Claim | None:
        await asyncio.Event().wait()
        return None

    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_returned(2)
        monkeypatch.setattr(Claims, "claim", never)
        await working.claims.until_returned(working.claims.sent)
        assert working.runner.stuck is None
        monkeypatch.setattr("service.exports.runner._STUCK_AFTER", timedelta(seconds=0.2))
        await until_true(lambda: working.runner.stuck == "claim")


async def test_exports_queued_before_the_start_complete(jobs: JobTable, tmp_path: Path) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(5)]
    async with running(jobs, tmp_path):
        for export_id in exports:
            assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_an_export_queued_later_completes_after_a_wake_up(jobs: JobTable, tmp_path: Path) -> None:
    async with running(jobs, tmp_path) as working:
        await working.claims.until_returned(1)
        export_id = await jobs.queue(await jobs.space())
        working.runner.wake()
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_an_export_queued_by_another_process_is_found_by_polling(jobs: JobTable, tmp_path: Path) -> None:
    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_returned(1)
        export_id = await jobs.queue(await jobs.space())
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_an_export_of_another_process_completes_after_its_lease_expired(jobs: JobTable, tmp_path: Path) -> None:
    claim = await jobs.claimed(lease_until="now() + interval '1 second'")
    async with running(jobs, tmp_path, rescue=0.1):
        row = await until_ended(jobs.sql, claim.export_id)
    assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 2, 1)


async def test_no_more_exports_are_claimed_than_there_are_slots(jobs: JobTable, tmp_path: Path) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(4)]
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path, slots=2) as working:
        await working.claims.until_returned(2)
        await until_processing(jobs, 2)
        await working.assert_wake_claims_nothing()
        assert working.runner.running == 2
        await release(holder)
        for export_id in exports:
            assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


async def test_nothing_is_claimed_while_an_export_that_must_run_alone_is_running(jobs: JobTable, tmp_path: Path) -> None:
    poison = await jobs.queue(await jobs.space(), lost_leases=2, run_after="now() - interval '1 hour'")
    other = await jobs.queue(await jobs.space())
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path) as working:
        await working.claims.until_returned(1)
        await until_processing(jobs, 1)
        await working.assert_wake_claims_nothing()
        assert (await jobs.job(poison))["status"] == "processing"
        assert (await jobs.job(other))["status"] == "queued"
        await release(holder)
        assert (await until_ended(jobs.sql, other))["status"] == "completed"


async def test_a_claim_that_fails_for_an_unknown_reason_is_retried(jobs: JobTable, tmp_path: Path) -> None:
    await jobs.sql.execute("ALTER FUNCTION claim_export RENAME TO renamed")
    export_id = await jobs.queue(await jobs.space())
    async with running(jobs, tmp_path, poll=0.05) as working:
        await working.claims.until_returned(2)
        await jobs.sql.execute("ALTER FUNCTION renamed RENAME TO claim_export")
        assert (await until_ended(jobs.sql, export_id))["status"] == "completed"


# Shutdown ------------------------------------------------------------------------------------------------------------


async def test_a_stopped_runner_finishes_running_exports_and_claims_no_more(jobs: JobTable, tmp_path: Path) -> None:
    first, second = await jobs.queue(await jobs.space()), await jobs.queue(await jobs.space())
    async with holding(jobs.url, SNAPSHOTS_WAIT) as holder, running(jobs, tmp_path, slots=1) as working:
        await working.claims.until_returned(1)
        working.runner.stop()
        await release(holder)
        await working.task
    assert (await jobs.job(first))["status"] == "completed"
    assert (await jobs.job(second))["status"] == "queued"


async def test_a_runner_told_to_hand_back_stops_with_its_exports_as_if_never_claimed(jobs: JobTable, tmp_path: Path) -> None:
    exports = [await jobs.queue(await jobs.space()) for _ in range(2)]
    async with holding(jobs.url, SNAPSHOTS_WAIT), running(jobs, tmp_path) as working:
        await working.claims.until_returned(2)
        await until_processing(jobs, 2)
        working.runner.stop()
        working.runner.hand_back()
        await working.task
    for export_id in exports:
        job = await jobs.job(export_id)
        assert (job["status"], job["attempts"], job["handed_back"]) == ("queued", 0, 1)


async def test_an_export_whose_claim_is_in_flight_is_handed_back_too(jobs: JobTable, tmp_path: Path) -> None:
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
        await working.task
    job = await jobs.job(export_id)
    # Not claimed at all if the claim timed out before.
    assert (job["status"], job["attempts"], job["handed_back"]) in [("queued", 0, 1), ("queued", 0, 0)]

"""Renewing and ending a claim: with the claim one row changes, without it none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from service.failures import SourceData, StorageFull, StorageUnavailable, WorkerLost
from service.model import Claim
from service.postgres.claims import Progress, Renewal
from tests.support.jobs import AT, FILE, LEASE, JobTable, connect, holding, job_table, until_waited_for
from tests.support.waiting import until_row

PAUSE = timedelta(seconds=10)
FAILURE = StorageUnavailable(detail="503 SlowDown")


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


# With the claim ------------------------------------------------------------------------------------------------------


async def test_completing_publishes_the_file_and_frees_the_slot(jobs: JobTable) -> None:
    claim = await jobs.claimed(error_code="'internal'", error_message="'from an earlier attempt'", error_detail="'x'")
    lifetime = timedelta(hours=24)
    assert await jobs.claims.complete(claim, FILE, snapshot_at=AT, complete_until=AT - PAUSE, file_lifetime=lifetime)
    job, attempt = await jobs.job(claim.export_id), await jobs.attempt(claim)
    assert (job["status"], job["object_name"], job["row_count"], job["file_size"], job["sha256"]) == (
        ("completed", claim.object_name, FILE.row_count, FILE.size, FILE.sha256)
    )
    assert (job["snapshot_at"], job["complete_until"], job["file_expires_at"] - job["finished_at"]) == (
        AT,
        AT - PAUSE,
        lifetime,
    )
    assert (job["claim_id"], job["lease_until"], job["slot"], job["phase"]) == (None,) * 4
    assert (job["error_code"], job["error_message"], job["error_detail"]) == (None,) * 3
    assert (attempt["outcome"], attempt["rows_read"], attempt["ended_at"]) == ("completed", 3, job["finished_at"])
    assert attempt["cleaned_at"] is not None


async def test_an_error_requeues_the_export_and_stores_the_reason(jobs: JobTable) -> None:
    claim = await jobs.claimed(rows_read=7)
    assert await jobs.claims.end_in_error(claim, FAILURE, pause=PAUSE)
    job, attempt = await jobs.job(claim.export_id), await jobs.attempt(claim)
    assert (job["status"], job["attempts"], job["finished_at"], job["claim_id"]) == ("queued", 1, None, None)
    assert (job["error_code"], job["error_message"], job["error_detail"]) == (
        ("storage_unavailable", FAILURE.message, "503 SlowDown")
    )
    assert (attempt["outcome"], attempt["error_code"], attempt["error_detail"], attempt["rows_read"]) == (
        ("error", "storage_unavailable", "503 SlowDown", 7)
    )


@pytest.mark.parametrize(("failure", "attempts"), [(SourceData(), 5), (FAILURE, 1), (StorageFull(), 1)])
async def test_a_permanent_error_and_the_last_attempt_fail_the_export(
    jobs: JobTable, failure: StorageUnavailable | SourceData, attempts: int
) -> None:
    claim = await jobs.claimed(max_attempts=attempts)
    assert await jobs.claims.end_in_error(claim, failure, pause=PAUSE)
    job = await jobs.job(claim.export_id)
    assert (job["status"], job["error_code"], job["error_message"]) == ("failed", failure.code, failure.message)
    assert job["finished_at"] == (await jobs.attempt(claim))["ended_at"]
    assert await jobs.try_claim() is None


async def test_the_delay_after_an_error_doubles_up_to_15_minutes_and_varies_by_50_percent(jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space(), max_attempts=100)
    pauses = []
    for _ in range(12):
        claim = await jobs.claim()
        await jobs.claims.end_in_error(claim, FAILURE, pause=PAUSE)
        pauses.append((await jobs.job(export_id))["run_after"] - (await jobs.attempt(claim))["ended_at"])
        await jobs.set(export_id, run_after="now()")
    wanted = [min(PAUSE * 2**number, timedelta(minutes=15)) for number in range(12)]
    assert all(full * 0.5 <= pause < full * 1.5 for pause, full in zip(pauses, wanted, strict=True)), pauses
    assert len({pause / full for pause, full in zip(pauses, wanted, strict=True)}) > 6


async def test_handing_back_does_not_count_the_attempt_and_allows_a_claim_immediately(jobs: JobTable) -> None:
    claim = await jobs.claimed(rows_read=7)
    assert await jobs.claims.hand_back(claim)
    job, attempt = await jobs.job(claim.export_id), await jobs.attempt(claim)
    assert (job["status"], job["attempts"], job["handed_back"], job["error_code"]) == ("queued", 0, 1, None)
    assert (attempt["outcome"], attempt["rows_read"]) == ("handed_back", 7)
    assert (await jobs.claim()).attempt == 1


# Without the claim ---------------------------------------------------------------------------------------------------

Write = Callable[[JobTable, Claim], Awaitable[object]]
WRITES: dict[str, Write] = {
    "complete": lambda jobs, claim: jobs.complete(claim),
    "retry": lambda jobs, claim: jobs.claims.end_in_error(claim, FAILURE, pause=PAUSE),
    "fail": lambda jobs, claim: jobs.claims.end_in_error(claim, SourceData(), pause=PAUSE),
    "hand back": lambda jobs, claim: jobs.claims.hand_back(claim),
    "record upload": lambda jobs, claim: jobs.claims.record_upload(claim, "an upload"),
}


async def assert_changes_nothing(jobs: JobTable, claim: Claim) -> None:
    """Every write with this claim is refused and changes neither table."""
    before = await jobs.everything()
    for name, write in WRITES.items():
        assert not await write(jobs, claim), name
        assert await jobs.everything() == before, name
    assert await jobs.renew(claim, Progress("completing", 10, 20, 30)) is Renewal.LOST
    assert await jobs.everything() == before


async def test_a_lost_claim_changes_nothing_whatever_happened_to_the_export_since(jobs: JobTable) -> None:
    stale = await jobs.claimed()
    await jobs.lose(stale)
    await assert_changes_nothing(jobs, stale)
    await jobs.claim("another worker")
    await assert_changes_nothing(jobs, stale)


@pytest.mark.parametrize("ending", [name for name in WRITES if name != "record upload"])
async def test_an_ended_claim_changes_nothing(jobs: JobTable, ending: str) -> None:
    claim = await jobs.claimed()
    assert await WRITES[ending](jobs, claim)
    await assert_changes_nothing(jobs, claim)


async def test_a_cancelled_export_stays_cancelled(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.cancel(claim.export_id)
    cancelled = await jobs.job(claim.export_id)
    assert not await jobs.complete(claim)
    assert not await jobs.claims.end_in_error(claim, FAILURE, pause=PAUSE)
    assert not await jobs.claims.hand_back(claim)
    assert await jobs.claims.rescue(pause=PAUSE) == []
    assert await jobs.job(claim.export_id) == cancelled


@pytest.mark.parametrize(
    ("write", "outcome"), [("complete", "completed"), ("retry", "error"), ("fail", "error"), ("hand back", "handed_back")]
)
async def test_the_receipt_shows_the_result_of_a_write_without_a_response(jobs: JobTable, write: str, outcome: str) -> None:
    claim = await jobs.claimed()
    assert await jobs.claims.outcome(claim) is None
    await WRITES[write](jobs, claim)
    assert not await WRITES[write](jobs, claim)
    assert await jobs.claims.outcome(claim) == outcome


async def test_the_receipt_of_a_lost_attempt_says_lost(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    await jobs.lose(claim)
    assert not await jobs.complete(claim)
    assert await jobs.claims.outcome(claim) == "lost"


async def test_of_a_concurrent_completion_and_rescue_one_counts(jobs: JobTable) -> None:
    claim = await jobs.claimed(lease_until="now() - interval '1 second'")
    async with holding(jobs.url, "SELECT FROM export_jobs FOR UPDATE") as other:
        completing = asyncio.create_task(jobs.complete(claim))
        await until_waited_for(jobs.sql, other)
        assert await jobs.claims.rescue(pause=PAUSE) == []
    assert await completing
    assert await jobs.claims.rescue(pause=PAUSE) == []
    assert await jobs.claims.outcome(claim) == "completed"


# Renewals ------------------------------------------------------------------------------------------------------------


async def test_a_renewal_extends_the_lease_and_stores_the_progress(jobs: JobTable) -> None:
    claim = await jobs.claimed(lease_until="now() + interval '1 second'")
    assert await jobs.renew(claim, Progress("reading", 10, 20, 30)) is Renewal.RENEWED
    job = await jobs.job(claim.export_id)
    assert job["lease_until"] - await jobs.sql.fetchval("SELECT now()") > LEASE - timedelta(seconds=30)
    assert (job["phase"], job["rows_read"], job["bytes_stored"], job["rows_estimated"]) == ("reading", 10, 20, 30)


async def test_a_renewal_that_arrives_late_takes_no_progress_back(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    shown = []
    for progress in (("reading", 0, 0, 20), ("reading", 30, 1, 30), ("reading", 25, 1, 25), ("reading", 25, 1, None)):
        assert await jobs.renew(claim, Progress(*progress)) is Renewal.RENEWED
        job = await jobs.job(claim.export_id)
        shown.append((job["rows_read"], job["rows_estimated"]))
    assert shown == [(0, 20), (30, 30), (30, 30), (30, 30)]


async def test_progress_at_changes_only_with_rows_bytes_or_phase(jobs: JobTable) -> None:
    claim = await jobs.claimed()

    async def progress_at(progress: Progress) -> object:
        assert await jobs.renew(claim, progress) is Renewal.RENEWED
        return (await jobs.job(claim.export_id))["progress_at"]

    seen = [
        await progress_at(Progress(*values))
        for values in [
            ("starting", 0, 0, None),
            ("starting", 0, 0, 50),
            ("reading", 0, 0, 50),
            ("reading", 0, 0, 50),
            ("reading", 1, 0, 50),
            ("reading", 1, 1, 50),
            ("reading", 1, 1, 50),
        ]
    ]
    assert [seen.index(each) for each in seen] == [0, 0, 2, 2, 4, 5, 5]


async def test_an_expired_lease_that_nobody_rescued_can_still_be_renewed(jobs: JobTable) -> None:
    claim = await jobs.claimed(lease_until="now() - interval '1 minute'")
    assert await jobs.renew(claim) is Renewal.RENEWED
    assert await jobs.claims.rescue(pause=PAUSE) == []


async def test_a_row_that_is_locked_is_undecided_and_holds_up_no_other(jobs: JobTable) -> None:
    locked, free, cancelled = await jobs.claimed(), await jobs.claimed(), await jobs.claimed()
    await jobs.cancel(cancelled.export_id)
    names = {claim.claim_id: Progress() for claim in (locked, free, cancelled)}
    unknown = uuid4()
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {locked.export_id} FOR UPDATE"), asyncio.timeout(4):
        answer = await jobs.claims.renew({**names, unknown: Progress()}, lease=LEASE)
    assert answer == {
        locked.claim_id: Renewal.UNDECIDED,
        free.claim_id: Renewal.RENEWED,
        cancelled.claim_id: Renewal.LOST,
        unknown: Renewal.LOST,
    }
    assert await jobs.renew(locked) is Renewal.RENEWED


async def test_a_renewal_during_a_cancellation_does_not_restore_the_claim(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    async with jobs.sql.transaction():
        await jobs.cancel(claim.export_id)
        assert await jobs.renew(claim) is Renewal.UNDECIDED
    assert await jobs.renew(claim) is Renewal.LOST


async def test_renewals_are_hot_updates(database_url: str) -> None:
    async with job_table(database_url) as jobs:
        claims = [await jobs.claimed() for _ in range(5)]
        await jobs.sql.execute("VACUUM export_jobs")
        for number in range(40):
            progress = {claim.claim_id: Progress("reading", number, number, 100) for claim in claims}
            assert set((await jobs.claims.renew(progress, lease=LEASE)).values()) == {Renewal.RENEWED}
    # The statistics are complete because the sessions have ended.
    async with connect(database_url) as sql:
        query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'export_jobs' AND n_tup_upd >= $1"
        updates, in_place = await until_row(sql, query, len(claims) + 40 * len(claims))
    assert (updates, updates - in_place) == (len(claims) + 40 * len(claims), len(claims))


# Rescue --------------------------------------------------------------------------------------------------------------


async def test_only_exports_with_an_expired_lease_are_rescued(jobs: JobTable) -> None:
    dead = await jobs.claimed(lease_until="now() - interval '1 ms'", rows_read=7)
    alive = await jobs.claimed()
    waiting = await jobs.queue(await jobs.space())
    (rescued,) = await jobs.claims.rescue(pause=PAUSE)
    assert (rescued.export_id, rescued.claim_id, rescued.worker, rescued.status) == (
        (dead.export_id, dead.claim_id, "a worker", "queued")
    )
    job, attempt = await jobs.job(dead.export_id), await jobs.attempt(dead)
    assert (job["status"], job["attempts"], job["lost_leases"], job["claim_id"]) == ("queued", 1, 1, None)
    assert (job["error_code"], job["error_message"]) == ("worker_lost", WorkerLost().message)
    assert "a worker" in job["error_detail"]
    assert (attempt["outcome"], attempt["error_code"], attempt["rows_read"]) == ("lost", "worker_lost", 7)
    assert (await jobs.job(alive.export_id))["claim_id"] == alive.claim_id
    assert (await jobs.job(waiting))["lost_leases"] == 0


async def test_two_concurrent_rescues_take_each_export_once(jobs: JobTable) -> None:
    claims = [await jobs.claimed(lease_until="now() - interval '1 second'") for _ in range(20)]
    rescued = await asyncio.gather(*(jobs.claims.rescue(pause=PAUSE) for _ in range(4)))
    assert sorted(each.claim_id for some in rescued for each in some) == sorted(claim.claim_id for claim in claims)
    assert await jobs.sql.fetchval("SELECT array_agg(DISTINCT lost_leases) FROM export_jobs") == [1]


async def test_a_renewal_that_came_in_time_prevents_the_rescue(jobs: JobTable) -> None:
    claim = await jobs.claimed(lease_until="now() - interval '1 second'")
    async with jobs.sql.transaction():
        await jobs.set(claim.export_id, lease_until="now() + interval '1 minute'")
        assert await jobs.claims.rescue(pause=PAUSE) == []
    assert await jobs.claims.rescue(pause=PAUSE) == []
    assert await jobs.renew(claim) is Renewal.RENEWED


async def test_a_first_loss_is_retried_immediately_and_later_ones_after_a_growing_delay(jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space(), max_attempts=10)
    pauses = []
    for _ in range(4):
        claim = await jobs.claim()
        await jobs.set(export_id, lease_until="now() - interval '1 second'")
        await jobs.claims.rescue(pause=PAUSE)
        pauses.append((await jobs.job(export_id))["run_after"] - (await jobs.attempt(claim))["ended_at"])
        await jobs.set(export_id, run_after="now()")
    assert pauses == [PAUSE * number for number in range(4)]


async def test_an_export_whose_last_attempt_is_lost_fails_with_worker_lost(jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space(), max_attempts=2)
    for _ in range(2):
        await jobs.lose(await jobs.claim())
    job = await jobs.job(export_id)
    assert (job["status"], job["lost_leases"], job["error_code"]) == ("failed", 2, "worker_lost")
    assert job["error_message"] == WorkerLost().message
    assert job["finished_at"] is not None
    assert await jobs.try_claim() is None

"""Claims on real connections: each export once, no Space above its limit or starved, and no waiting for locked rows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from service.errors import DatabaseUnavailable
from service.model import END_OF_TIME, Claim, NewExport, Window
from service.postgres.export_jobs import ExportJobs
from tests.support.jobs import LEASE, REQUEST, WINDOW, JobTable, holding, job_table, until_waited_for

CLAIMERS = 16
EXPORTS = 600
CAP = 2


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


# Concurrency ---------------------------------------------------------------------------------------------------------


async def running(jobs: JobTable) -> Counter[int]:
    """Number of running exports of each Space."""
    rows = await jobs.sql.fetch("SELECT space_id, count(*) FROM export_jobs WHERE status = 'processing' GROUP BY 1")
    return Counter({row["space_id"]: row["count"] for row in rows})


async def test_claimers_that_ask_at_once_fill_every_space_to_its_cap_and_not_further(database_url: str) -> None:
    async with job_table(database_url, connections=CLAIMERS) as jobs:
        caps = {await jobs.space(): CAP, await jobs.space(): CAP, await jobs.space(max_running=5): 5}
        for space_id in list(caps) * 10:
            await jobs.queue(space_id)

        async def take_all(worker: str) -> list[Claim]:
            claims = []
            while claim := await jobs.try_claim(worker, space_slots=CAP):
                claims.append(claim)
            return claims

        taken = await asyncio.gather(*(take_all(f"worker {number}") for number in range(CLAIMERS)))
        claims = [claim for each in taken for claim in each]
        assert await running(jobs) == caps
        assert Counter(claim.space_id for claim in claims) == caps
        assert len({claim.export_id for claim in claims}) == len({claim.claim_id for claim in claims}) == sum(caps.values())
        slots = await jobs.sql.fetch("SELECT space_id, slot FROM export_jobs WHERE status = 'processing'")
        assert sorted(tuple(row) for row in slots) == [
            (space_id, slot) for space_id, cap in sorted(caps.items()) for slot in range(1, cap + 1)
        ]


async def test_sixteen_claimers_share_six_hundred_exports_and_no_space_is_ever_above_its_cap(database_url: str) -> None:
    async with job_table(database_url, connections=CLAIMERS) as jobs:
        caps = {await jobs.space(): CAP for _ in range(6)} | {await jobs.space(max_running=3): 3}
        exports = await jobs.queue_many([list(caps)[number % 7] for number in range(EXPORTS)])
        claims: list[Claim] = []

        async def work(worker: str) -> None:
            while len(claims) < EXPORTS:
                claim = await jobs.try_claim(worker, space_slots=CAP)
                if claim is not None:
                    claims.append(claim)
                    assert await jobs.complete(claim)

        working = asyncio.gather(*(work(f"worker {number}") for number in range(CLAIMERS)))
        samples = []
        while not working.done():
            samples.append(await running(jobs))
        await working
        assert all(sample[space_id] <= cap for sample in samples for space_id, cap in caps.items())
        assert any(samples)
        assert sorted(claim.export_id for claim in claims) == exports
        ended = await jobs.sql.fetch("SELECT outcome, count(*) FROM export_attempts GROUP BY 1")
        assert [tuple(row) for row in ended] == [("completed", EXPORTS)]
        assert await jobs.sql.fetchval("SELECT count(*) FROM export_jobs WHERE status = 'completed'") == EXPORTS


async def test_a_claimer_counts_the_claim_that_another_is_just_making(jobs: JobTable) -> None:
    space_id = await jobs.space(max_running=1)
    first = await jobs.queue(space_id)
    # Both are the next of their Space for a process that is empty, so that only the count stands between them and the slot.
    await jobs.queue(space_id, lost_leases=2)
    async with jobs.sql.transaction():
        row = await jobs.sql.fetchrow("SELECT * FROM claim_export('a worker', $1, 1, true)", LEASE)
        assert row is not None
        assert row["job_id"] == first
        claiming = asyncio.create_task(jobs.try_claim("another worker"))
        await until_waited_for(jobs.sql, jobs.sql)
    assert await claiming is None


# Contents of a claim -------------------------------------------------------------------------------------------------


async def test_a_claim_has_the_parameters_of_the_request_and_is_stored(jobs: JobTable) -> None:
    space_id = await jobs.space()
    export_id = await jobs.queue(space_id, max_attempts=3)
    claim = await jobs.claim("a worker")
    assert claim == Claim(
        claim_id=claim.claim_id,
        export_id=export_id,
        space_id=space_id,
        attempt=1,
        alone=False,
        object_name=f"{space_id}/{export_id}/{claim.claim_id}.ndjson.gz",
        window=WINDOW,
        extras=REQUEST.extras,
    )
    job, attempt = await jobs.job(export_id), await jobs.attempt(claim)
    assert (job["status"], job["claim_id"], job["worker"], job["attempts"], job["slot"], job["phase"]) == (
        ("processing", claim.claim_id, "a worker", 1, 1, "starting")
    )
    assert (attempt["job_id"], attempt["attempt"], attempt["worker"]) == (export_id, 1, "a worker")
    assert (attempt["object_name"], attempt["ended_at"], attempt["outcome"]) == (claim.object_name, None, None)


async def test_a_lease_lasts_for_its_duration_from_the_claim_on(jobs: JobTable) -> None:
    await jobs.queue(await jobs.space())
    before = await jobs.sql.fetchval("SELECT clock_timestamp()")
    claim = await jobs.claim()
    after = await jobs.sql.fetchval("SELECT clock_timestamp()")
    assert before + LEASE <= (await jobs.job(claim.export_id))["lease_until"] <= after + LEASE


async def test_a_window_without_an_end_is_stored_and_read_unchanged(jobs: JobTable) -> None:
    space_id = await jobs.space()
    window = Window(datetime(9999, 12, 31, tzinfo=UTC), END_OF_TIME)
    stored = await ExportJobs(jobs.database).insert(NewExport(space_id, REQUEST, "UTC", window, 1, ""))
    assert stored.job.window == window
    assert (await jobs.claim()).window == window


async def test_each_attempt_has_a_new_claim_id_and_object_name_and_starts_at_zero(jobs: JobTable) -> None:
    first = await jobs.claimed(rows_read=10, bytes_stored=20, rows_estimated=30, phase="'reading'")
    await jobs.lose(first)
    second = await jobs.claim()
    assert (second.export_id, second.attempt) == (first.export_id, 2)
    assert first.claim_id != second.claim_id
    assert first.object_name != second.object_name
    job = await jobs.job(first.export_id)
    assert (job["rows_read"], job["bytes_stored"], job["rows_estimated"], job["phase"]) == (0, 0, None, "starting")


async def test_nothing_is_claimed_from_an_empty_queue(jobs: JobTable) -> None:
    assert await jobs.try_claim() is None
    await jobs.complete(await jobs.claimed())
    await jobs.claimed()
    await jobs.cancel(await jobs.queue(await jobs.space()))
    assert await jobs.try_claim() is None


# Order ---------------------------------------------------------------------------------------------------------------


async def test_a_space_with_one_export_comes_before_the_second_export_of_a_busy_space(jobs: JobTable) -> None:
    greedy, modest = await jobs.space(), await jobs.space()
    many = [await jobs.queue(greedy) for _ in range(20)]
    one = await jobs.queue(modest)
    assert [(await jobs.claim()).export_id for _ in range(4)] == [many[0], one, many[1], many[2]]


async def test_among_spaces_with_equally_many_running_the_oldest_export_is_first(jobs: JobTable) -> None:
    one, other, third = await jobs.space(), await jobs.space(), await jobs.space()
    order = [await jobs.queue(space_id) for space_id in (third, one, other, one, third, other)]
    assert [(await jobs.claim()).export_id for _ in range(6)] == order


async def test_a_single_space_uses_all_its_slots_and_reuses_a_freed_one(jobs: JobTable) -> None:
    space_id = await jobs.space()
    for _ in range(5):
        await jobs.queue(space_id)
    claims = [await jobs.claim(space_slots=3) for _ in range(3)]
    assert await jobs.try_claim(space_slots=3) is None
    await jobs.complete(claims[1])
    freed = await jobs.claim(space_slots=3)
    assert (await jobs.job(freed.export_id))["slot"] == 2


async def test_a_lowered_limit_counts_exports_that_still_run_in_higher_slots(jobs: JobTable) -> None:
    space_id = await jobs.space(max_running=3)
    for _ in range(5):
        await jobs.queue(space_id)
    claims = [await jobs.claim() for _ in range(3)]
    await jobs.sql.execute("UPDATE spaces SET max_running_exports = 2")
    await jobs.complete(claims[0])
    assert await jobs.try_claim() is None
    await jobs.complete(claims[1])
    assert (await jobs.job((await jobs.claim()).export_id))["slot"] == 1


async def test_a_paused_space_waits_until_it_is_resumed(jobs: JobTable) -> None:
    paused = await jobs.space(max_running=0)
    export_id, other = await jobs.queue(paused), await jobs.queue(await jobs.space())
    assert (await jobs.claim()).export_id == other
    assert await jobs.try_claim() is None
    await jobs.sql.execute("UPDATE spaces SET max_running_exports = NULL WHERE id = $1", paused)
    assert (await jobs.claim()).export_id == export_id


async def test_an_export_in_its_retry_delay_lets_a_later_one_of_its_space_run(jobs: JobTable) -> None:
    space_id = await jobs.space()
    waiting = await jobs.queue(space_id, run_after="now() + interval '1 minute'")
    ready = await jobs.queue(space_id)
    assert (await jobs.claim()).export_id == ready
    assert await jobs.try_claim() is None
    await jobs.set(waiting, run_after="now()")
    assert (await jobs.claim()).export_id == waiting


# Exports that may have killed their process --------------------------------------------------------------------------


async def test_an_export_that_lost_two_leases_is_claimed_only_by_an_idle_process(jobs: JobTable) -> None:
    poison = await jobs.queue(await jobs.space(), lost_leases=2)
    assert await jobs.try_claim(alone=False) is None
    claim = await jobs.try_claim(alone=True)
    assert claim is not None
    assert (claim.export_id, claim.alone) == (poison, True)


async def test_an_export_that_lost_one_lease_is_claimed_normally(jobs: JobTable) -> None:
    await jobs.queue(await jobs.space(), lost_leases=1)
    claim = await jobs.try_claim(alone=False)
    assert claim is not None
    assert not claim.alone


async def test_an_export_that_must_run_alone_lets_others_of_its_space_run_for_ten_minutes(jobs: JobTable) -> None:
    space_id = await jobs.space()
    await jobs.queue(space_id, lost_leases=2, run_after="now() - interval '9 minutes 50 seconds'")
    other = await jobs.queue(space_id)
    claim = await jobs.try_claim(alone=False)
    assert claim is not None
    assert claim.export_id == other


async def test_after_ten_minutes_nothing_is_claimed_until_an_idle_process_takes_it(
    jobs: JobTable,
) -> None:
    other = await jobs.queue(await jobs.space())
    poison = await jobs.queue(await jobs.space(), lost_leases=2, run_after="now() - interval '10 minutes 1 second'")
    assert await jobs.try_claim(alone=False) is None
    assert (await jobs.claim()).export_id == poison
    claim = await jobs.try_claim(alone=False)
    assert claim is not None
    assert claim.export_id == other


@pytest.mark.parametrize("max_running", [0, 1])
async def test_an_overdue_export_of_a_space_without_a_free_slot_blocks_no_other(jobs: JobTable, max_running: int) -> None:
    space_id = await jobs.space(max_running=max_running)
    if max_running:
        await jobs.queue(space_id)
        await jobs.claim()
    await jobs.queue(space_id, lost_leases=2, run_after="now() - interval '1 hour'")
    other = await jobs.queue(await jobs.space())
    claim = await jobs.try_claim(alone=False)
    assert claim is not None
    assert claim.export_id == other


# Locked rows ---------------------------------------------------------------------------------------------------------


async def test_a_row_locked_by_an_operator_is_skipped_for_one_of_another_space(jobs: JobTable) -> None:
    locked, other = await jobs.queue(await jobs.space()), await jobs.queue(await jobs.space())
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {locked} FOR UPDATE"):
        assert (await jobs.claim()).export_id == other
        assert await jobs.try_claim() is None
    assert (await jobs.claim()).export_id == locked


async def test_a_locked_row_does_not_block_another_of_its_space(jobs: JobTable) -> None:
    space_id = await jobs.space()
    exports = [await jobs.queue(space_id) for _ in range(4)]
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {exports[0]} FOR UPDATE"):
        assert (await jobs.claim()).export_id == exports[1]
    # Now the Space has a running export.
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {exports[0]} FOR UPDATE"):
        assert (await jobs.claim()).export_id == exports[2]
    assert [(await jobs.claim()).export_id for _ in range(2)] == [exports[0], exports[3]]


async def test_a_locked_row_gives_its_space_no_advantage(jobs: JobTable) -> None:
    one, other = await jobs.space(), await jobs.space()
    locked, second, third = [await jobs.queue(space_id) for space_id in (one, other, one)]
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {locked} FOR UPDATE"):
        assert [(await jobs.claim()).export_id for _ in range(2)] == [second, third]


@pytest.mark.parametrize("minutes", [5, 15])
async def test_instead_of_a_locked_export_that_must_run_alone_another_such_is_claimed(jobs: JobTable, minutes: int) -> None:
    space_id = await jobs.space()
    await jobs.queue(space_id)
    await jobs.claim()
    waiting = f"now() - interval '{minutes} minutes'"
    locked, _, next_poison = [await jobs.queue(space_id, lost_leases=lost, run_after=waiting) for lost in (2, 0, 2)]
    async with holding(jobs.url, f"SELECT FROM export_jobs WHERE id = {locked} FOR UPDATE"):
        claims = [await jobs.claim() for _ in range(2)]
    assert next_poison in {claim.export_id for claim in claims}
    assert all(claim.alone == (claim.export_id == next_poison) for claim in claims)


async def test_a_claimer_that_stalls_holds_up_the_others_for_a_second_at_a_time(jobs: JobTable) -> None:
    export_id = await jobs.queue(await jobs.space())
    lock = "SELECT pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'))"
    async with holding(jobs.url, lock), asyncio.timeout(4):
        with pytest.raises(DatabaseUnavailable, match="LockNotAvailable"):
            await jobs.try_claim()
    assert (await jobs.claim()).export_id == export_id


# Cost ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [0, CAP - 1, CAP])
async def test_ten_thousand_exports_of_one_space_delay_no_other_space(jobs: JobTable, running: int) -> None:
    first, other = await jobs.space(), await jobs.space()
    many = await jobs.queue_many([first] * 10_000)
    for _ in range(running):
        await jobs.claim(space_slots=CAP)
    one = await jobs.queue(other)
    # While the first runs nothing it is as fair to serve it, and its oldest export is older.
    wanted = [one] if running else [many[0], one]
    assert [(await jobs.claim(space_slots=CAP)).export_id for _ in wanted] == wanted


async def test_a_claim_does_not_read_the_whole_queue(jobs: JobTable) -> None:
    await jobs.sql.execute("INSERT INTO spaces (name, timezone) SELECT 'a space', 'UTC' FROM generate_series(1, 5000)")
    spaces = [row["id"] for row in await jobs.sql.fetch("SELECT id FROM spaces ORDER BY id")]
    await jobs.queue_many([spaces[0]] * 5_000 + spaces)
    await jobs.sql.execute("VACUUM ANALYZE export_jobs")
    async with jobs.sql.transaction():
        claimed = await jobs.sql.fetch("SELECT * FROM claim_export('a worker', $1, 2, true)", LEASE)
        read = await jobs.sql.fetchval(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'export_jobs'"
        )
    assert len(claimed) == 1
    assert read < 100

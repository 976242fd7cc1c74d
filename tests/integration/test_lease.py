"""Leases on a real database: renewed while there is work, and believed no longer than they can be valid."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from service.errors import DatabaseUnavailable
from service.exports.lease import Ending, Lease, LeaseEnded, Leases
from service.exports.periodic import boot_clock
from service.model import Claim
from tests.support.jobs import JobTable, connect, holding, job_table, until_waited_for
from tests.support.waiting import until, until_row, until_true

DURATION = timedelta(seconds=3)
LONG = timedelta(minutes=1)


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of this test's database."""
    async with job_table(database_url) as table:
        yield table


@dataclass
class Work:
    """Work that continues until it is told to finish; records when it was cancelled."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled_at: float | None = None

    async def plain(self) -> str:
        """Stop when cancelled."""
        self.begun.set()
        try:
            await self.finished.wait()
        except asyncio.CancelledError:
            self.cancelled_at = boot_clock()
            raise
        return "done"

    async def lingering(self) -> str:
        """When cancelled, wait for permission to stop."""
        try:
            return await self.plain()
        except asyncio.CancelledError:
            await self.may_end.wait()
            raise

    async def stubborn(self) -> str:
        """Return a result although cancelled."""
        try:
            return await self.plain()
        except asyncio.CancelledError:
            return "done anyway"


@asynccontextmanager
async def renewed(leases: Leases, failures: list[DatabaseUnavailable] | None = None) -> AsyncIterator[None]:
    """Renew the leases inside the block, as the runner does."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(leases.interval.total_seconds())
            try:
                await leases.renew()
            except DatabaseUnavailable as failure:
                if failures is not None:
                    failures.append(failure)

    renewing = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing


@asynccontextmanager
async def unreachable(url: str, server: str) -> AsyncIterator[None]:
    """Refuse all connections to this database inside the block."""
    async with connect(url) as own, connect(server) as elsewhere:
        name = await own.fetchval("SELECT current_database()")
        await elsewhere.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
        await elsewhere.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        await until(lambda: _alone(elsewhere, name))
        try:
            yield
        finally:
            await elsewhere.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")


async def _alone(elsewhere: asyncpg.Connection, name: str) -> bool:
    return not await elsewhere.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name)


def leases_of(jobs: JobTable, *, duration: timedelta = DURATION, no_progress: timedelta = LONG) -> Leases:
    return Leases(jobs.claims, duration=duration, no_progress=no_progress)


async def claimed(jobs: JobTable, duration: timedelta = DURATION) -> tuple[Claim, float]:
    """Claim an export for this duration; return the claim and the clock before it was sent."""
    await jobs.queue(await jobs.space())
    sent = boot_clock()
    return await jobs.claim(lease=duration), sent


async def ending_of(lease: Lease, work: Callable[[], Any]) -> Ending:
    """Run the work and return why it was ended."""
    with pytest.raises(LeaseEnded) as caught:
        await lease.run(work())
    return caught.value.ending


async def until_over(jobs: JobTable, claim: Claim) -> None:
    """Wait until the lease has expired by the database's clock."""
    await until_row(
        jobs.sql, "SELECT 1 FROM export_jobs WHERE claim_id = $1 AND lease_until < clock_timestamp()", claim.claim_id
    )


# Renewals ------------------------------------------------------------------------------------------------------------


async def test_renewals_keep_a_lease_beyond_its_duration(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs)
    leases, work = leases_of(jobs), Work()
    with leases.hold(claim, sent=sent) as lease:
        async with renewed(leases):
            running = asyncio.create_task(lease.run(work.plain()))
            lengths = "SELECT 1 FROM export_jobs WHERE lease_until > claimed_at + 2.2 * $1::interval"
            await until_row(jobs.sql, lengths, DURATION)
            assert not running.done()
            assert await jobs.claims.rescue(pause=LONG) == []
            work.finished.set()
            assert await running == "done"
    assert (await jobs.job(claim.export_id))["claim_id"] == claim.claim_id


async def test_renewals_report_the_progress(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(claim, sent=sent) as lease:
        lease.progress.phase, lease.progress.rows_read, lease.progress.bytes_stored = "reading", 10, 20
        lease.progress.rows_estimated = 30
        await leases.renew()
    job = await jobs.job(claim.export_id)
    assert (job["phase"], job["rows_read"], job["bytes_stored"], job["rows_estimated"]) == ("reading", 10, 20, 30)


async def test_a_claim_that_is_no_longer_held_is_not_renewed(jobs: JobTable) -> None:
    (claim, sent), (kept, kept_sent) = await claimed(jobs, LONG), await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(kept, sent=kept_sent):
        with leases.hold(claim, sent=sent):
            pass
        before = await jobs.job(claim.export_id), await jobs.job(kept.export_id)
        await leases.renew()
    assert (await jobs.job(claim.export_id))["lease_until"] == before[0]["lease_until"]
    assert (await jobs.job(kept.export_id))["lease_until"] > before[1]["lease_until"]


async def test_a_result_counts_even_if_the_work_was_told_to_stop(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases, work = leases_of(jobs, duration=LONG), Work()
    with leases.hold(claim, sent=sent) as lease:
        running = asyncio.create_task(lease.run(work.stubborn()))
        await work.begun.wait()
        leases.end_all(Ending.SHUTDOWN)
        assert await running == "done anyway"


async def test_an_error_of_the_work_is_raised(jobs: JobTable) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    claim, sent = await claimed(jobs, LONG)
    with leases_of(jobs, duration=LONG).hold(claim, sent=sent) as lease, pytest.raises(ZeroDivisionError):
        await lease.run(broken())


async def test_cancelling_from_outside_stops_the_work_first(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    work = Work()
    with leases_of(jobs, duration=LONG).hold(claim, sent=sent) as lease:
        running = asyncio.create_task(lease.run(work.lingering()))
        await work.begun.wait()
        running.cancel()
        while work.cancelled_at is None:
            await asyncio.sleep(0)
        assert not running.done()
        work.may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await running


# Lost claims ---------------------------------------------------------------------------------------------------------


async def test_a_renewal_stops_the_work_on_a_cancelled_export_and_no_other_work(jobs: JobTable) -> None:
    (claim, sent), (other, other_sent) = await claimed(jobs, LONG), await claimed(jobs, LONG)
    leases, work, other_work = leases_of(jobs, duration=LONG), Work(), Work()
    with leases.hold(claim, sent=sent) as lease, leases.hold(other, sent=other_sent) as other_lease:
        other_running = asyncio.create_task(other_lease.run(other_work.plain()))
        ending = asyncio.create_task(ending_of(lease, work.plain))
        await work.begun.wait()
        await jobs.cancel(claim.export_id)
        await leases.renew()
        assert await ending is Ending.LOST
        assert not lease.believed
        assert not other_running.done()
        other_work.finished.set()
        assert await other_running == "done"
    assert (await jobs.job(claim.export_id))["status"] == "cancelled"


async def test_the_work_on_an_export_cancelled_in_this_process_stops_at_once(jobs: JobTable) -> None:
    (claim, sent), (other, other_sent) = await claimed(jobs, LONG), await claimed(jobs, LONG)
    leases, work, other_work = leases_of(jobs, duration=LONG), Work(), Work()
    with leases.hold(claim, sent=sent) as lease, leases.hold(other, sent=other_sent) as other_lease:
        other_running = asyncio.create_task(other_lease.run(other_work.plain()))
        ending = asyncio.create_task(ending_of(lease, work.plain))
        await work.begun.wait()
        leases.end(claim.claim_id, Ending.CANCELLED)
        leases.end(uuid4(), Ending.CANCELLED)
        assert await ending is Ending.CANCELLED
        assert not lease.believed
        assert not other_running.done()
        other_work.finished.set()
        assert await other_running == "done"


async def test_the_work_on_an_export_taken_over_by_another_process_stops(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases, work = leases_of(jobs, duration=LONG), Work()
    with leases.hold(claim, sent=sent) as lease:
        ending = asyncio.create_task(ending_of(lease, work.plain))
        await work.begun.wait()
        await jobs.lose(claim)
        successor = await jobs.claim("another worker", lease=LONG)
        before = await jobs.job(claim.export_id)
        await leases.renew()
        assert await ending is Ending.LOST
    assert await jobs.job(claim.export_id) == before
    assert before["claim_id"] == successor.claim_id


async def test_a_locked_row_stops_no_work(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(claim, sent=sent) as lease:
        async with holding(jobs.url, "SELECT FROM export_jobs FOR UPDATE"):
            await leases.renew()
        assert lease.believed
        assert lease.ending is None
        assert lease.believed_until == sent + LONG.total_seconds()
        await leases.renew()
        assert lease.believed_until > sent + LONG.total_seconds()


async def test_a_lease_is_believed_from_before_its_renewal_was_sent(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(claim, sent=sent) as lease:
        async with holding(jobs.url, "LOCK TABLE export_jobs") as holder:
            before = boot_clock()
            renewing = asyncio.create_task(leases.renew())
            await until_waited_for(jobs.sql, holder)
            sent_by = boot_clock()
        await renewing
        assert before + LONG.total_seconds() <= lease.believed_until <= sent_by + LONG.total_seconds()


async def test_work_continues_while_the_database_is_unreachable_until_its_lease_may_have_expired(
    jobs: JobTable, postgres_server: str
) -> None:
    claim, sent = await claimed(jobs)
    leases, work = leases_of(jobs), Work()
    failures: list[DatabaseUnavailable] = []
    with leases.hold(claim, sent=sent) as lease:
        async with renewed(leases, failures):
            ending = asyncio.create_task(ending_of(lease, work.plain))
            async with unreachable(jobs.url, postgres_server):
                assert await ending is Ending.LOST
            assert work.cancelled_at is not None
            assert lease.believed_until <= work.cancelled_at < lease.believed_until + 20
            assert lease.believed_until >= sent + DURATION.total_seconds()
            assert failures


async def test_an_outage_shorter_than_the_lease_stops_no_work(jobs: JobTable, postgres_server: str) -> None:
    duration = timedelta(seconds=12)
    claim, sent = await claimed(jobs, duration)
    leases, work = leases_of(jobs, duration=duration), Work()
    failures: list[DatabaseUnavailable] = []
    with leases.hold(claim, sent=sent) as lease:
        async with renewed(leases, failures):
            running = asyncio.create_task(lease.run(work.plain()))
            async with unreachable(jobs.url, postgres_server):
                await until_true(lambda: failures)
                believed_until = lease.believed_until
            await until_true(lambda: lease.believed_until > believed_until)
            work.finished.set()
            assert await running == "done"


# Confirmation --------------------------------------------------------------------------------------------------------


async def test_confirming_a_valid_claim_renews_it(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(claim, sent=sent) as lease:
        before = (await jobs.job(claim.export_id))["lease_until"]
        await leases.confirm(lease)
        assert (await jobs.job(claim.export_id))["lease_until"] > before


async def test_a_lost_claim_is_not_confirmed(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    await jobs.cancel(claim.export_id)
    with leases.hold(claim, sent=sent) as lease, pytest.raises(LeaseEnded, match="lost"):
        await leases.confirm(lease)


async def test_work_that_finds_its_claim_lost_can_still_clean_up(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    await jobs.cancel(claim.export_id)
    cleaned_up: list[bool] = []

    async def work() -> None:
        try:
            await leases.confirm(lease)
        finally:
            await jobs.sql.execute("SELECT")
            cleaned_up.append(True)

    with leases.hold(claim, sent=sent) as lease:
        assert await ending_of(lease, work) is Ending.LOST
    assert cleaned_up == [True]


async def test_without_a_response_a_claim_is_confirmed_as_long_as_it_is_believed(
    jobs: JobTable, postgres_server: str
) -> None:
    (believed, sent), (doubted, _) = await claimed(jobs, LONG), await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG)
    with leases.hold(believed, sent=sent) as lease, leases.hold(doubted, sent=sent - LONG.total_seconds()) as late:
        async with unreachable(jobs.url, postgres_server):
            await leases.confirm(lease)
            with pytest.raises(LeaseEnded, match="lost"):
                await leases.confirm(late)


# No progress ---------------------------------------------------------------------------------------------------------


async def test_work_without_progress_is_stopped_and_its_lease_expires(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs)
    leases, work = leases_of(jobs, no_progress=timedelta(seconds=0.3)), Work()
    with leases.hold(claim, sent=sent) as lease:
        async with renewed(leases):
            ending = asyncio.create_task(ending_of(lease, work.lingering))
            # The work hangs even after it was told to stop; another process takes over as if this one were dead.
            await until_over(jobs, claim)
            assert lease.ending is Ending.STALLED
            assert [each.claim_id for each in await jobs.claims.rescue(pause=LONG)] == [claim.claim_id]
            work.may_end.set()
            assert await ending is Ending.STALLED


@pytest.mark.parametrize("counter", ["rows_read", "bytes_stored"])
async def test_work_with_slow_progress_is_not_stopped(jobs: JobTable, counter: str) -> None:
    no_progress = timedelta(seconds=0.05)
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG, no_progress=no_progress)
    with leases.hold(claim, sent=sent) as lease:
        for progress in range(1, 4):
            await asyncio.sleep(1.2 * no_progress.total_seconds())
            setattr(lease.progress, counter, progress)
            await leases.renew()
            assert lease.ending is None


async def test_an_estimate_is_no_progress(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases = leases_of(jobs, duration=LONG, no_progress=timedelta(seconds=0))
    with leases.hold(claim, sent=sent) as lease:
        lease.progress.rows_read = 1
        lease.stalled_for().total_seconds()
        lease.progress.rows_estimated = 100
        assert lease.stalled_for().total_seconds() > 0
        await leases.renew()
        assert lease.ending is Ending.STALLED


# Shutdown ------------------------------------------------------------------------------------------------------------


async def test_a_shutdown_stops_all_work_and_renews_its_leases_until_it_has_stopped(jobs: JobTable) -> None:
    claims = [await claimed(jobs, LONG) for _ in range(2)]
    leases, works = leases_of(jobs, duration=LONG), [Work(), Work()]
    with leases.hold(claims[0][0], sent=claims[0][1]) as first, leases.hold(claims[1][0], sent=claims[1][1]) as second:
        endings = [
            asyncio.create_task(ending_of(lease, work.lingering)) for lease, work in zip((first, second), works, strict=True)
        ]
        for work in works:
            await work.begun.wait()
        leases.end_all(Ending.SHUTDOWN)
        before = [(await jobs.job(claim.export_id))["lease_until"] for claim, _ in claims]
        await leases.renew()
        after = [(await jobs.job(claim.export_id))["lease_until"] for claim, _ in claims]
        assert all(later > earlier for earlier, later in zip(before, after, strict=True))
        assert first.believed
        for work in works:
            work.may_end.set()
        assert [await ending for ending in endings] == [Ending.SHUTDOWN] * 2


async def test_work_that_does_not_stop_after_its_lease_expired_counts_as_hanging(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs)
    leases, work = leases_of(jobs), Work()
    with leases.hold(claim, sent=sent) as lease:
        ending = asyncio.create_task(ending_of(lease, work.lingering))
        await work.begun.wait()
        assert not leases.hanging(timedelta(0))
        lease.end(Ending.LOST)
        assert not leases.hanging(timedelta(0)), "it may still record its outcome until the lease expires"
        await until_true(lambda: leases.hanging(timedelta(0)))
        assert not leases.hanging(timedelta(minutes=1))
        work.may_end.set()
        assert await ending is Ending.LOST
    assert not leases.hanging(timedelta(0))


async def test_the_first_reason_to_stop_is_kept(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases, work = leases_of(jobs, duration=LONG), Work()
    with leases.hold(claim, sent=sent) as lease:
        ending = asyncio.create_task(ending_of(lease, work.plain))
        await work.begun.wait()
        lease.end(Ending.STALLED)
        leases.end_all(Ending.SHUTDOWN)
        assert await ending is Ending.STALLED


async def test_work_told_to_stop_before_it_starts_stops_at_once(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    leases, work = leases_of(jobs, duration=LONG), Work()
    with leases.hold(claim, sent=sent) as lease:
        leases.end_all(Ending.SHUTDOWN)
        assert await ending_of(lease, work.plain) is Ending.SHUTDOWN


async def test_work_whose_lease_expired_before_it_starts_stops_at_once(jobs: JobTable) -> None:
    claim, sent = await claimed(jobs, LONG)
    with leases_of(jobs, duration=LONG).hold(claim, sent=sent - LONG.total_seconds()) as lease:
        assert await ending_of(lease, Work().plain) is Ending.LOST

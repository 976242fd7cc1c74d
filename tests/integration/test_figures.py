"""The figures of the installation that metrics and the operator's page show."""

from collections.abc import AsyncIterator

import pytest

from service.postgres.claims import Progress
from service.postgres.figures import Figures
from tests.support.jobs import JobTable, job_table


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


async def test_the_figures_of_an_empty_queue_are_zero(jobs: JobTable) -> None:
    figures = await Figures(jobs.database).queue()
    assert figures.queued == figures.running == figures.completed == figures.overdue_leases == figures.overdue_files == 0
    assert figures.oldest_age == 0


async def test_the_figures_count_each_export_once_by_what_it_waits_for(jobs: JobTable) -> None:
    running = await jobs.claimed()
    await jobs.renew(running, Progress(phase="reading"))
    free, paused = await jobs.space(), await jobs.space(max_running=0)
    await jobs.queue(free, run_after="now() - interval '90 seconds'")
    await jobs.queue(free, run_after="now() - interval '30 seconds'")
    await jobs.queue(free, run_after="now() + interval '1 hour'")
    await jobs.queue(paused, run_after="now() - interval '1 day'")
    figures = await Figures(jobs.database).queue()
    assert (figures.ready, figures.waits_for_retry, figures.paused, figures.queued) == (2, 1, 1, 4)
    assert (figures.starting, figures.reading, figures.completing, figures.running) == (0, 1, 0, 1)
    assert 90 <= figures.oldest_age < 120


async def test_exports_that_ended_count_for_a_day(jobs: JobTable) -> None:
    for _ in range(2):
        await jobs.complete(await jobs.claimed())
    old = await jobs.claimed()
    await jobs.complete(old)
    await jobs.set(old.export_id, finished_at="now() - interval '25 hours'")
    await jobs.cancel(await jobs.queue(await jobs.space()))
    figures = await Figures(jobs.database).queue()
    assert (figures.completed, figures.cancelled, figures.failed, figures.expired) == (2, 1, 0, 0)


async def test_what_should_have_been_done_is_counted(jobs: JobTable) -> None:
    file = await jobs.claimed()
    await jobs.complete(file)
    await jobs.sql.execute("SELECT cancel_export($1)", file.export_id)
    assert (await Figures(jobs.database).queue()).overdue_files == 0
    await jobs.set(file.export_id, file_delete_after="now() - interval '61 minutes'")
    await jobs.claimed(lease_until="now() - interval '61 seconds'")
    figures = await Figures(jobs.database).queue()
    assert (figures.overdue_files, figures.overdue_leases) == (1, 1)

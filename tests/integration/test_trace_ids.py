"""The trace id of a request: in its log lines, in the row of its export, and in the claim of every attempt."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from service.exports.rescue import Rescue
from service.model import NewExport
from service.postgres.export_jobs import ExportJobs
from service.postgres.overview import Overview
from service.trace_context import TraceContext, parse
from tests.support.jobs import REQUEST, WINDOW, JobTable, connect, holding, job_table, release, until_waited_for
from tests.support.web import BODY, EXPORTS, Site

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{SPAN}-01"
CONTEXT = TraceContext(TRACE, SPAN, 1)
WITHOUT_DELAY = timedelta(0)
INSERT = """
    INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts, traceparent)
    VALUES ($1, '2024-01-15', '2024-01-16', 'UTC', '2024-01-15Z', '2024-01-16Z', 5, $2)"""


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


async def queue_traced(jobs: JobTable, space_id: int, trace: TraceContext | None = CONTEXT) -> int:
    """Queue an export of a request with this trace."""
    new = NewExport(space_id, REQUEST, "UTC", WINDOW, 5, "a request", trace=trace)
    return (await ExportJobs(jobs.database).insert(new)).job.export_id


# Requests --------------------------------------------------------------------------------------------------------------


async def test_the_trace_of_a_creation_is_in_its_log_lines_its_row_and_its_claim(api: Site) -> None:
    headers = {**await api.caller(), "traceparent": SENT}
    with capture_logs(processors=[merge_contextvars]) as logged:
        export_id = await api.create(headers)
    assert {line["event"]: line.get("trace_id") for line in logged} == {"export_queued": TRACE, "request": TRACE}
    async with api.database.connection() as connection:
        assert await connection.fetchval("SELECT traceparent FROM export_jobs WHERE id = $1", export_id) == SENT
    assert (await api.claim()).trace == CONTEXT


@pytest.mark.parametrize(
    "sent",
    [[], [""], ["not a trace"], [SENT + "-more"], [f"00-{'0' * 32}-{SPAN}-01"], [SENT, SENT], ["x" * 8000]],
    ids=["none", "empty", "text", "five fields", "zero", "twice", "long"],
)
async def test_a_malformed_header_is_ignored(api: Site, sent: list[str]) -> None:
    headers = [*(await api.caller()).items(), *(("traceparent", value) for value in sent)]
    with capture_logs(processors=[merge_contextvars]) as logged:
        response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    assert response.status == 202
    assert [line["event"] for line in logged if "trace_id" in line] == []
    async with api.database.connection() as connection:
        assert await connection.fetchval("SELECT traceparent FROM export_jobs") is None
    assert (await api.claim()).trace is None


async def test_the_line_of_a_refused_request_and_of_an_unknown_address_have_the_trace(api: Site) -> None:
    with capture_logs(processors=[merge_contextvars]) as logged:
        for path in (EXPORTS, "/nothing"):
            await (await api.client.get(path, headers={"traceparent": SENT})).read()
    assert [(line["status"], line["trace_id"]) for line in logged if line["event"] == "request"] == [
        (401, TRACE),
        (404, TRACE),
    ]


async def test_the_trace_of_one_request_is_not_that_of_the_next_on_its_connection(api: Site) -> None:
    with capture_logs(processors=[merge_contextvars]) as logged:
        for headers in ({"traceparent": SENT}, {}):
            await (await api.client.get(EXPORTS, headers=headers)).read()
    assert [line.get("trace_id") for line in logged if line["event"] == "request"] == [TRACE, None]


async def test_a_repeated_creation_keeps_the_trace_of_the_first(api: Site) -> None:
    headers = {**await api.caller(), "Idempotency-Key": "once"}
    other = f"00-{TRACE[::-1]}-{SPAN}-01"
    assert await api.create({**headers, "traceparent": SENT}) == await api.create({**headers, "traceparent": other})
    assert (await api.claim()).trace == CONTEXT


# The row ---------------------------------------------------------------------------------------------------------------


async def test_an_export_whose_creation_commits_while_a_claim_waits_has_its_trace_in_the_claim(jobs: JobTable) -> None:
    space_id = await jobs.space()
    lock = "SELECT pg_advisory_xact_lock(hashtext('contact-exports'), hashtext('claim'))"
    async with connect(jobs.url) as creating, holding(jobs.url, lock) as holder:
        await creating.execute("BEGIN")
        await creating.execute(INSERT, space_id, SENT)
        claiming = asyncio.create_task(jobs.claim())
        await until_waited_for(jobs.sql, holder)
        await creating.execute("COMMIT")
        await release(holder)
        assert (await claiming).trace == CONTEXT


async def test_every_attempt_has_the_trace_and_so_has_the_line_of_its_rescue(jobs: JobTable) -> None:
    export_id = await queue_traced(jobs, await jobs.space())
    first = await jobs.claim()
    await jobs.set(export_id, lease_until="now() - interval '1 second'")
    with capture_logs(processors=[merge_contextvars]) as logged:
        assert await Rescue(jobs.claims, retry_pause=WITHOUT_DELAY).run()
    assert [(line["event"], line["trace_id"]) for line in logged] == [("export_rescued", TRACE)]
    assert first.trace == (await jobs.claim("another worker")).trace == CONTEXT


async def test_a_manual_retry_has_the_trace_of_the_export(jobs: JobTable) -> None:
    export_id = await queue_traced(jobs, await jobs.space())
    await jobs.cancel(export_id)
    assert await jobs.sql.fetchval("SELECT retry_export($1)", export_id)
    assert (await jobs.claim()).trace == CONTEXT


async def test_operators_see_the_trace_id(jobs: JobTable) -> None:
    space_id = await jobs.space()
    for trace, expected in ((CONTEXT, TRACE), (None, None)):
        row = await Overview(jobs.database).one(await queue_traced(jobs, space_id, trace))
        assert row is not None
        assert row["trace_id"] == expected


@pytest.mark.parametrize(
    "text", ["", "x", SENT + "-more", SENT.upper(), f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"01{SENT[2:]}"]
)
async def test_nothing_else_can_be_stored(jobs: JobTable, text: str) -> None:
    export_id = await queue_traced(jobs, await jobs.space())
    with pytest.raises(asyncpg.CheckViolationError, match="traceparent_is_well_formed"):
        await jobs.set(export_id, traceparent=f"'{text}'")
    assert parse((await jobs.job(export_id))["traceparent"]) == CONTEXT

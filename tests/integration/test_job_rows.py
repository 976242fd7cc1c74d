"""The job table: refused rows and transitions, comments of all columns, and leftovers of attempts."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from service.failures import SourceData, StorageUnavailable
from service.model import Claim, ExportStatus
from service.postgres.claims import Leftover
from tests.support.jobs import JobTable, job_table

MOVES = {
    ("queued", "processing"),
    ("queued", "cancelled"),
    ("processing", "completed"),
    ("processing", "queued"),
    ("processing", "failed"),
    ("processing", "cancelled"),
    ("completed", "expired"),
}
NO_GRACE = timedelta(0)


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[JobTable]:
    """The job table of the test's database."""
    async with job_table(database_url) as table:
        yield table


async def expire(jobs: JobTable, export_id: int) -> None:
    await jobs.sql.execute("UPDATE export_jobs SET status = 'expired', expired_at = now() WHERE id = $1", export_id)


async def export_that_is(jobs: JobTable, status: str) -> int:
    """An export with this status, reached by regular transitions."""
    if status == "queued":
        return await jobs.queue(await jobs.space())
    claim = await jobs.claimed()
    if status in ("completed", "expired"):
        await jobs.complete(claim)
    if status == "expired":
        await expire(jobs, claim.export_id)
    if status == "failed":
        await jobs.claims.end_in_error(claim, SourceData(), pause=timedelta(0))
    if status == "cancelled":
        await jobs.cancel(claim.export_id)
    return claim.export_id


# Transitions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ExportStatus)
async def test_an_unknown_transition_is_refused(jobs: JobTable, status: ExportStatus) -> None:
    export_id = await export_that_is(jobs, status)
    for other in ExportStatus:
        if other != status and (status, other) not in MOVES:
            with pytest.raises(asyncpg.CheckViolationError, match=f"cannot change from {status} to {other}"):
                await jobs.sql.execute("UPDATE export_jobs SET status = $2 WHERE id = $1", export_id, other)
    assert (await jobs.job(export_id))["status"] == status


async def test_a_new_export_must_be_queued(jobs: JobTable) -> None:
    export_id = await export_that_is(jobs, "completed")
    columns = await jobs.sql.fetchval(
        "SELECT string_agg(attname, ', ') FROM pg_attribute"
        " WHERE attrelid = 'export_jobs'::regclass AND attnum > 1 AND NOT attisdropped AND attgenerated = ''"
    )
    with pytest.raises(asyncpg.CheckViolationError, match="must be queued, not completed"):
        await jobs.sql.execute(
            f"INSERT INTO export_jobs ({columns}) SELECT {columns} FROM export_jobs WHERE id = {export_id}"
        )


# Rows ----------------------------------------------------------------------------------------------------------------

RESULT = ("object_name", "row_count", "file_size", "sha256", "snapshot_at", "file_expires_at")
FILE_COLUMNS = {
    "object_name": "'a'",
    "row_count": "1",
    "file_size": "1",
    "sha256": "repeat('a', 64)",
    "file_expires_at": "now()",
}
ANY_STATE = [
    ("window_to = window_from", "window_is_not_empty"),
    ("end_date = start_date", "window_is_not_empty"),
    ("attempts = -1", "attempts_within_limit"),
    ("attempts = max_attempts + 1", "attempts_within_limit"),
    ("lost_leases = -1", "counts_are_not_negative"),
    ("handed_back = -1", "counts_are_not_negative"),
    ("rows_read = -1", "counts_are_not_negative"),
    ("bytes_stored = -1", "counts_are_not_negative"),
    ("error_code = 'unheard_of'", "export_jobs_error_code_check"),
]
WITHOUT_A_CLAIM = [
    ("claim_id = gen_random_uuid()", "claim_while_processing"),
    ("lease_until = now()", "lease_while_processing"),
    ("slot = 1", "slot_while_processing"),
]
WITHOUT_A_FILE = [
    *((f"{column} = {value}", "no_half_result") for column, value in FILE_COLUMNS.items()),
    ("file_deleted_at = now()", "only_expired_files_are_deleted"),
]
WITH_A_FILE = [
    *((f"{column} = NULL", "file_when_completed") for column in RESULT),
    ("row_count = -1", "result_is_plausible"),
    ("file_size = 0", "result_is_plausible"),
    ("sha256 = 'no hash'", "result_is_plausible"),
    ("finished_at = NULL", "finished_at_the_end"),
]
IMPOSSIBLE: dict[str, list[tuple[str, str]]] = {
    "queued": [
        *WITHOUT_A_CLAIM,
        *WITHOUT_A_FILE,
        ("finished_at = now()", "finished_at_the_end"),
        ("expired_at = now()", "expired_says_when"),
        # A claim of it would fail, and block the claims of every Space.
        ("attempts = max_attempts", "queued_may_be_tried"),
    ],
    "processing": [
        *WITHOUT_A_FILE,
        ("claim_id = NULL", "claim_while_processing"),
        ("lease_until = NULL", "lease_while_processing"),
        ("slot = NULL", "slot_while_processing"),
        ("slot = 0", "slot_is_positive"),
        ("attempts = 0", "processing_is_an_attempt"),
        ("finished_at = now()", "finished_at_the_end"),
        ("expired_at = now()", "expired_says_when"),
    ],
    "completed": [
        *WITHOUT_A_CLAIM,
        *WITH_A_FILE,
        ("expired_at = now()", "expired_says_when"),
        ("file_deleted_at = now()", "only_expired_files_are_deleted"),
    ],
    "failed": [
        *WITHOUT_A_CLAIM,
        *WITHOUT_A_FILE,
        ("error_code = NULL", "failed_says_why"),
        ("error_message = NULL", "failed_says_why"),
        ("finished_at = NULL", "finished_at_the_end"),
    ],
    "cancelled": [*WITHOUT_A_CLAIM, *WITHOUT_A_FILE, ("finished_at = NULL", "finished_at_the_end")],
    "expired": [*WITHOUT_A_CLAIM, *WITH_A_FILE, ("expired_at = NULL", "expired_says_when")],
}


@pytest.mark.parametrize("status", ExportStatus)
async def test_an_impossible_row_is_refused(jobs: JobTable, status: ExportStatus) -> None:
    export_id = await export_that_is(jobs, status)
    before = await jobs.everything()
    refused = {}
    for change, _ in ANY_STATE + IMPOSSIBLE[status]:
        try:
            await jobs.sql.execute(f"UPDATE export_jobs SET {change} WHERE id = {export_id}")
        except asyncpg.CheckViolationError as error:
            refused[change] = error.constraint_name
    assert refused == dict(ANY_STATE + IMPOSSIBLE[status])
    assert await jobs.everything() == before


async def test_two_exports_of_a_space_cannot_run_in_one_slot(jobs: JobTable) -> None:
    space_id = await jobs.space()
    exports = [await jobs.queue(space_id) for _ in range(2)]
    for _ in exports:
        await jobs.claim()
    with pytest.raises(asyncpg.UniqueViolationError, match="export_jobs_running"):
        await jobs.set(exports[1], slot=1)


async def test_two_exports_cannot_have_one_claim(jobs: JobTable) -> None:
    first, second = await jobs.claimed(), await jobs.claimed()
    with pytest.raises(asyncpg.UniqueViolationError, match="export_jobs_claim"):
        await jobs.set(second.export_id, claim_id=f"'{first.claim_id}'")


async def test_an_attempt_has_ended_if_and_only_if_it_has_an_outcome(jobs: JobTable) -> None:
    await jobs.claimed()
    for change in ("ended_at = now()", "outcome = 'lost'", "ended_at = now(), outcome = 'unheard_of'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await jobs.sql.execute(f"UPDATE export_attempts SET {change}")


@pytest.mark.parametrize("table", ["export_jobs", "export_attempts"])
async def test_every_column_has_a_comment(jobs: JobTable, table: str) -> None:
    rows = await jobs.sql.fetch(
        "SELECT attname, col_description(attrelid, attnum) AS meaning FROM pg_attribute"
        " WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
        table,
    )
    assert len(rows) > 10
    assert [row["attname"] for row in rows if not (row["meaning"] or "").endswith(".")] == []


async def test_every_table_view_and_function_has_a_comment(jobs: JobTable) -> None:
    rows = await jobs.sql.fetch(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        " AND relname <> 'schema_migrations' AND obj_description(oid, 'pg_class') IS NULL"
        " UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND prorettype <> 'trigger'::regtype AND obj_description(oid, 'pg_proc') IS NULL"
    )
    assert [row["name"] for row in rows] == []


async def test_the_overview_has_a_summary_for_every_status(jobs: JobTable) -> None:
    exports = {str(status): await export_that_is(jobs, status) for status in reversed(ExportStatus)}
    rows = await jobs.sql.fetch("SELECT export_id, status, summary FROM export_overview")
    assert {row["status"]: row["export_id"] for row in rows} == exports
    summaries = {row["status"]: row["summary"] for row in rows}
    assert all(summaries.values())
    assert summaries["processing"] == "starting, attempt 1 of 5"
    assert summaries["completed"] == "3 contacts in 100 bytes"
    assert summaries["failed"] == f"source_data: {SourceData().message}"


# Leftovers -----------------------------------------------------------------------------------------------------------


async def leftovers(jobs: JobTable, grace: timedelta = NO_GRACE) -> set[str]:
    return {each.object_name for each in await jobs.claims.leftovers(grace=grace)}


async def attempt_that(jobs: JobTable, ending: str) -> Claim:
    """An attempt with this ending."""
    claim = await jobs.claimed()
    if ending in ("completed", "expired"):
        await jobs.complete(claim)
    if ending == "expired":
        await expire(jobs, claim.export_id)
    if ending == "failed":
        await jobs.claims.end_in_error(claim, SourceData(), pause=timedelta(0))
    if ending == "to be tried again":
        await jobs.claims.end_in_error(claim, StorageUnavailable(), pause=timedelta(hours=1))
    if ending == "handed back":
        await jobs.claims.hand_back(claim)
        await jobs.set(claim.export_id, run_after="now() + interval '1 hour'")
    if ending == "lost":
        await jobs.lose(claim)
        await jobs.set(claim.export_id, run_after="now() + interval '1 hour'")
    if ending == "cancelled":
        await jobs.cancel(claim.export_id)
    return claim


OVER = ("failed", "to be tried again", "handed back", "lost", "cancelled")
KEPT = ("running", "completed", "expired")


async def test_leftovers_are_of_ended_attempts_that_published_nothing(jobs: JobTable) -> None:
    over = [await attempt_that(jobs, ending) for ending in OVER]
    for ending in KEPT:
        await attempt_that(jobs, ending)
    # Even if an attempt that published its file is not marked as cleaned.
    await jobs.sql.execute("UPDATE export_attempts SET cleaned_at = NULL")
    assert await leftovers(jobs) == {claim.object_name for claim in over}


async def test_the_leftover_of_an_earlier_attempt_stays_one_during_and_after_the_next(jobs: JobTable) -> None:
    first = await jobs.claimed()
    await jobs.lose(first)
    second = await jobs.claim()
    assert await leftovers(jobs) == {first.object_name}
    await jobs.complete(second)
    assert await leftovers(jobs) == {first.object_name}


async def test_leftovers_are_not_listed_during_the_grace_period(jobs: JobTable) -> None:
    claims = {ending: await attempt_that(jobs, ending) for ending in OVER}
    grace = timedelta(minutes=2)
    assert await leftovers(jobs, grace) == set()
    # If a row was edited by hand the attempt may have no end; then its start counts.
    cancelled = claims["cancelled"].claim_id
    await jobs.sql.execute("UPDATE export_attempts SET ended_at = NULL, outcome = NULL WHERE claim_id = $1", cancelled)
    await jobs.sql.execute("UPDATE export_attempts SET started_at = now() - interval '3 minutes'")
    assert await leftovers(jobs, grace) == {claims["cancelled"].object_name}
    await jobs.sql.execute("UPDATE export_attempts SET ended_at = now() - interval '3 minutes' WHERE ended_at IS NOT NULL")
    assert await leftovers(jobs, grace) == {claim.object_name for claim in claims.values()}


async def test_a_cleaned_leftover_is_not_listed_again(jobs: JobTable) -> None:
    lost, failed = await attempt_that(jobs, "lost"), await attempt_that(jobs, "failed")
    await jobs.claims.record_cleaned(Leftover(lost.claim_id, lost.export_id, lost.object_name, None))
    assert await leftovers(jobs) == {failed.object_name}


async def test_a_leftover_has_the_upload_id_if_one_was_recorded(jobs: JobTable) -> None:
    claim = await jobs.claimed()
    assert await jobs.claims.record_upload(claim, "an upload")
    await jobs.lose(claim)
    assert await jobs.claims.leftovers(grace=NO_GRACE) == [
        Leftover(claim.claim_id, claim.export_id, claim.object_name, "an upload")
    ]


async def test_an_upload_is_not_recorded_after_the_attempt_was_cleaned(jobs: JobTable) -> None:
    claim = await attempt_that(jobs, "cancelled")
    await jobs.claims.record_cleaned(Leftover(claim.claim_id, claim.export_id, claim.object_name, None))
    assert not await jobs.claims.record_upload(claim, "an upload")


async def test_many_leftovers_come_in_batches_until_none_is_left(jobs: JobTable) -> None:
    claim = await attempt_that(jobs, "lost")
    await jobs.sql.execute(
        "INSERT INTO export_attempts (claim_id, job_id, attempt, worker, object_name, ended_at, outcome)"
        " SELECT gen_random_uuid(), $1, 1, 'w', 'object ' || n, now(), 'lost' FROM generate_series(1, 50) n",
        claim.export_id,
    )
    seen = []
    while some := await jobs.claims.leftovers(grace=NO_GRACE):
        assert len(some) <= 20
        seen += [each.object_name for each in some]
        for each in some:
            await jobs.claims.record_cleaned(each)
    assert sorted(seen) == sorted([claim.object_name, *(f"object {number}" for number in range(1, 51))])


async def test_an_object_is_in_use_while_it_is_written_and_while_it_is_published(jobs: JobTable) -> None:
    claims = {ending: await attempt_that(jobs, ending) for ending in (*OVER, *KEPT)}
    gone = await attempt_that(jobs, "expired")
    await jobs.set(gone.export_id, file_deleted_at="now()")
    names = [claim.object_name for claim in (*claims.values(), gone)]
    used = {claims[ending].object_name for ending in KEPT}
    assert await jobs.claims.objects_in_use([*names, "unheard of"]) == used
    assert await jobs.claims.objects_in_use([]) == set()

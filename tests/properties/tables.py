"""Compares the rows of both tables with the model and with each other, and makes them older."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import asyncpg

from tests.properties.model import Model

_TIMES = {
    "export_jobs": "created_at run_after claimed_at lease_until progress_at finished_at file_expires_at expired_at"
    " file_delete_after file_deleted_at",
    "export_attempts": "started_at ended_at cleaned_at",
}


async def make_older(sql: asyncpg.Connection, duration: timedelta) -> None:
    """Let this much time pass. The clock of a transaction does not move, so all stored times are moved back."""
    for table, columns in _TIMES.items():
        older = ", ".join(f"{column} = {column} - $1::interval" for column in columns.split())
        await sql.execute(f"UPDATE {table} SET {older}", duration)


def assert_as_modelled(model: Model, jobs: Sequence[asyncpg.Record], attempts: Sequence[asyncpg.Record]) -> None:
    """Both tables equal the model and have no other rows."""
    assert [job["id"] for job in jobs] == sorted(model.exports)
    for job in jobs:
        export = model.exports[job["id"]]
        for name in vars(export).keys() - {"export_id", "file_deleted", "run_after"}:
            assert job[name] == getattr(export, name), (export, name)
        assert (job["file_deleted_at"] is not None) == export.file_deleted, export
        assert export.status != "queued" or job["run_after"] == export.run_after, export
    known = {claim_id: attempt for claim_id, attempt in model.attempts.items() if not attempt.forgotten}
    assert {row["claim_id"] for row in attempts} == known.keys()
    for row in attempts:
        attempt = known[row["claim_id"]]
        for name in ("started_at", "ended_at", "outcome", "upload_id"):
            assert row[name] == getattr(attempt, name), (attempt, name)
        assert (row["cleaned_at"] is not None) == attempt.cleaned, attempt


def assert_every_attempt_has_its_receipt(jobs: Sequence[asyncpg.Record], attempts: Sequence[asyncpg.Record]) -> None:
    """The counters of each export match the outcomes of its attempts."""
    for job in jobs:
        receipts = Counter(attempt["outcome"] for attempt in attempts if attempt["job_id"] == job["id"])
        assert job["attempts"] == receipts.total() - receipts["handed_back"], job
        assert (job["handed_back"], job["lost_leases"]) == (receipts["handed_back"], receipts["lost"]), job
        assert receipts["completed"] == (job["status"] in ("completed", "expired")), job
        assert receipts[None] == (job["status"] == "processing"), job

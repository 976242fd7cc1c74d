"""The claim function, with its shortcuts, claims the same export as the rule in the model, which considers every export."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sql import migrations
from tests.properties.model import Export, Model
from tests.support.jobs import LEASE, connect

SCAN_LIMITS = (0, 1, 3, 10_000)
"""Queued jobs that are scanned before the Spaces are ranked; the service uses the last."""
MINUTES = (-60, -11, -9, -1, -1, 5)
"""Minutes from now until a job may run: some are overdue, some are not due yet."""


@dataclass(frozen=True)
class Job:
    """`space` counts from 0. A running job leaves `gap` slots of its Space free below its own."""

    space: int
    running: bool
    minutes: int
    lost_leases: int
    gap: int


@dataclass(frozen=True)
class Table:
    """The concurrency limits of the Spaces, and the jobs in id order."""

    caps: list[int | None]
    jobs: list[Job]


@st.composite
def tables(draw: st.DrawFn) -> Table:
    caps = draw(st.lists(st.sampled_from([None, None, 0, 1, 2, 3]), min_size=1, max_size=6))
    job = st.builds(
        Job,
        space=st.integers(0, len(caps) - 1),
        running=st.sampled_from([False, False, True]),
        minutes=st.sampled_from(MINUTES),
        lost_leases=st.sampled_from([0, 0, 0, 1, 2, 3]),
        gap=st.sampled_from([0, 0, 1]),
    )
    return Table(caps, draw(st.lists(job, max_size=20)))


def claim_functions() -> Iterator[str]:
    """The claim function with each scan limit N as `claim_with_N`."""
    (migration, *_) = migrations("main")
    found = re.search(r"CREATE FUNCTION claim_export(\(.*?END \$\$;)", migration.text, re.DOTALL)
    assert found is not None
    for limit in SCAN_LIMITS:
        text, replaced = re.subn(
            r"_scan_limit constant integer := \d+;", f"_scan_limit constant integer := {limit};", found[1]
        )
        assert replaced == 1
        yield f"CREATE FUNCTION claim_with_{limit}{text}"


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that has all these functions and accepts any row."""
    async with connect(database_url) as connection:
        for text in claim_functions():
            await connection.execute(text)
        await connection.execute("ALTER TABLE export_jobs DISABLE TRIGGER USER")
        yield connection


async def fill(sql: asyncpg.Connection, table: Table) -> None:
    """Spaces with the ids 1, 2, … and jobs with the ids 1, 2, …"""
    await sql.execute(
        "INSERT INTO spaces (id, name, timezone, max_running_exports)"
        " SELECT n, 'a space', 'UTC', cap FROM unnest($1::smallint[]) WITH ORDINALITY AS made(cap, n)",
        table.caps,
    )
    slots = [0] * len(table.caps)
    for number, job in enumerate(table.jobs, 1):
        if job.running:
            slots[job.space] += 1 + job.gap
        await sql.execute(
            "INSERT INTO export_jobs (id, space_id, start_date, end_date, timezone, window_from, window_to,"
            " max_attempts, attempts, lost_leases, run_after, status, slot,"
            " claim_id, lease_until) OVERRIDING SYSTEM VALUE"
            " SELECT $1, $2, '2024-01-15', '2024-01-16', 'UTC', '2024-01-15Z', '2024-01-16Z', 5, 1, $3,"
            " now() + make_interval(mins => $4), $5, slot, claim_id, lease_until"
            " FROM (SELECT $6::smallint) given(slot)"
            " LEFT JOIN (SELECT gen_random_uuid(), now()) claim(claim_id, lease_until) ON slot IS NOT NULL",
            number,
            job.space + 1,
            job.lost_leases,
            job.minutes,
            "processing" if job.running else "queued",
            slots[job.space] if job.running else None,
        )


def modelled(table: Table, now: datetime) -> Model:
    """The same rows in the model."""
    model = Model(now, caps=dict(enumerate(table.caps, 1)))
    slots = [0] * len(table.caps)
    for number, job in enumerate(table.jobs, 1):
        export = Export(number, job.space + 1, 5, now + timedelta(minutes=job.minutes), lost_leases=job.lost_leases)
        if job.running:
            slots[job.space] += 1 + job.gap
            export.status, export.slot = "processing", slots[job.space]
        model.exports[number] = export
    return model


async def claimed(sql: asyncpg.Connection, function: str, slots: int, alone: bool) -> tuple[object, ...] | None:
    """Export, slot and `alone` of the claim that this function makes."""
    row = await sql.fetchrow(f"SELECT * FROM {function}('a worker', $1, $2, $3)", LEASE, slots, alone)
    if row is None:
        return None
    return row["job_id"], await sql.fetchval("SELECT slot FROM export_jobs WHERE id = $1", row["job_id"]), row["alone"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), st.integers(1, 3), st.lists(st.booleans(), min_size=1, max_size=6))
@example(Table([None, None], [Job(0, False, -9, 2, 0), Job(1, False, -1, 0, 0)]), 1, [True])
@example(Table([None], [Job(0, False, -11, 2, 0), Job(0, False, -9, 2, 0)]), 2, [False, True])
async def test_a_claim_follows_the_rule_with_every_scan_limit(
    sql: asyncpg.Connection, table: Table, slots: int, alone: list[bool]
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    try:
        await fill(sql, table)
        model = modelled(table, await sql.fetchval("SELECT now()"))
        wanted = None
        for each in alone:
            for asked in (not each, each):
                wanted = model.next(slots, alone=asked)
                expected = wanted and (wanted.export_id, model.free_slot(wanted.space_id), wanted.poison)
                for limit in SCAN_LIMITS:
                    await sql.execute("SAVEPOINT before")
                    assert await claimed(sql, f"claim_with_{limit}", slots, asked) == expected
                    await sql.execute("ROLLBACK TO SAVEPOINT before")
            await claimed(sql, "claim_export", slots, each)
            if wanted is not None:
                wanted.slot, wanted.status = model.free_slot(wanted.space_id), "processing"
    finally:
        await transaction.rollback()

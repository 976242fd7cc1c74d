"""The claim finds by short ways what the whole rule of the first migration chooses among all that wait."""

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sql import migrations
from tests.support.jobs import LEASE, connect

FAR = (0, 1, 3, 10_000)
"""How many waiting jobs are read before the Spaces are walked; the last is what the service uses."""
MINUTES = (-60, -11, -9, -1, -1, 5)
"""Minutes from now until a job may run: some have waited long, some must wait."""


@dataclass(frozen=True)
class Job:
    """`space` counts from 0. A running job stands in the next slot but `gap` of its Space."""

    space: int
    running: bool
    minutes: int
    lost_leases: int
    gap: int


@dataclass(frozen=True)
class Table:
    """Spaces by their caps, and the jobs in the order of their ids."""

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
    """The first claim as `first_claim`, and the present one with each way of reading as `claim_with_N`."""
    texts = [
        found[0]
        for migration in migrations("main")
        for found in re.finditer(r"CREATE (?:OR REPLACE )?FUNCTION claim_export\(.*?END \$\$;", migration.text, re.DOTALL)
    ]
    named = "CREATE FUNCTION {}("
    yield re.sub(r"^CREATE .*?\(", named.format("first_claim"), texts[0])
    for far in FAR:
        text, replaced = re.subn(r"_far constant integer := \d+;", f"_far constant integer := {far};", texts[-1])
        assert replaced == 1
        yield re.sub(r"^CREATE .*?\(", named.format(f"claim_with_{far}"), text)


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database that has all these functions and takes any row."""
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


async def claimed(sql: asyncpg.Connection, function: str, slots: int, alone: bool) -> tuple[object, ...] | None:
    """Export, slot and the rest of what a claim by this function is, but for its random id."""
    row = await sql.fetchrow(f"SELECT * FROM {function}('a worker', $1, $2, $3)", LEASE, slots, alone)
    if row is None:
        return None
    slot = await sql.fetchval("SELECT slot FROM export_jobs WHERE id = $1", row["job_id"])
    return slot, *(value for name, value in row.items() if name not in ("claim_id", "object_name"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tables(), st.integers(1, 3), st.lists(st.booleans(), min_size=1, max_size=6))
@example(Table([None, None], [Job(0, False, -9, 2, 0), Job(1, False, -1, 0, 0)]), 1, [True])
@example(Table([None], [Job(0, False, -11, 2, 0), Job(0, False, -9, 2, 0)]), 2, [False, True])
async def test_the_claim_is_what_the_whole_rule_chooses(
    sql: asyncpg.Connection, table: Table, slots: int, alone: list[bool]
) -> None:
    transaction = sql.transaction()
    await transaction.start()
    try:
        await fill(sql, table)
        for each in alone:
            for asked in (not each, each):
                chosen = []
                for function in ("first_claim", *(f"claim_with_{far}" for far in FAR)):
                    await sql.execute("SAVEPOINT before")
                    chosen.append(await claimed(sql, function, slots, asked))
                    await sql.execute("ROLLBACK TO SAVEPOINT before")
                assert len(set(chosen)) == 1, chosen
            await claimed(sql, "claim_export", slots, each)
    finally:
        await transaction.rollback()

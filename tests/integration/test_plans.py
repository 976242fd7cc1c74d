"""With 100,000 finished and 10,000 queued exports, every statement finds its rows by an index."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncpg

from service.access import Access, presented_key
from service.failures import StorageUnavailable
from service.model import Claim, ExportStatus, NewExport, Scope
from service.postgres.access import AccessTables
from service.postgres.claims import Claims, Progress, Renewal
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from service.postgres.rate_limits import PostgresWindows
from service.web.rate_limits import parse_limit
from tests.support.crowded import CROWDED_SPACE, FINISHED, RUNNING, crowded_database
from tests.support.jobs import AT, FILE, LEASE, REQUEST, WINDOW, connect, job_table
from tests.support.one_connection import OneConnection

PAUSE = timedelta(seconds=10)
EXECUTIONS = 7
"""After this many executions the server has switched to a generic plan."""

_COUNTS = """
SELECT relname AS name, pg_stat_get_xact_numscans(oid) AS scans, pg_stat_get_xact_tuples_returned(oid) AS read
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
"""

Call = Callable[["Crowd"], Awaitable[object]]


@dataclass(frozen=True)
class Crowd:
    """The service's classes on one connection, in a transaction that is rolled back."""

    sql: asyncpg.Connection
    jobs: ExportJobs
    files: ExportFiles
    claims: Claims
    database: Database

    async def reads(self, call: Call) -> dict[str, int]:
        """Rows and index entries that this call reads, by scanned table or index, also inside functions."""
        before = {row["name"]: row for row in await self.sql.fetch(_COUNTS)}
        await call(self)
        used = [row for row in await self.sql.fetch(_COUNTS) if row["scans"] > before[row["name"]]["scans"]]
        return {row["name"]: row["read"] - before[row["name"]]["read"] for row in used}

    async def claim(self, *, alone: bool = False) -> Claim:
        """Claim a queued export."""
        claim = await self.claims.claim("a worker", lease=LEASE, space_slots=64, alone=alone)
        assert claim is not None
        return claim

    async def renew(self) -> None:
        """Renew three claims in one call."""
        progress = {(await self.claim()).claim_id: Progress() for _ in range(3)}
        assert set((await self.claims.renew(progress, lease=LEASE)).values()) == {Renewal.RENEWED}

    async def complete(self) -> None:
        """Complete an export."""
        claim = await self.claim()
        assert await self.claims.record_upload(claim, "an upload")
        assert await self.claims.complete(
            claim, FILE, snapshot_at=AT, complete_until=None, file_lifetime=timedelta(hours=24)
        )

    async def try_again(self) -> None:
        """End an attempt in error."""
        assert await self.claims.end_in_error(await self.claim(), StorageUnavailable(), pause=PAUSE)

    async def hand_back(self) -> None:
        """Hand an export back."""
        assert await self.claims.hand_back(await self.claim())

    async def admit(self) -> None:
        """Check a new key and count a call of its Space."""
        key = presented_key(f"Bearer {await Access(AccessTables(self.database)).create_key(CROWDED_SPACE, Scope)}")
        item, windows = parse_limit("1000/minute"), PostgresWindows(self.database)
        assert (await windows.admit(item, "a-bucket", key.key_id, key.sha256, Scope.EXPORTS_READ)).window is not None

    async def insert(self) -> None:
        """Queue an export."""
        await self.jobs.insert(NewExport(CROWDED_SPACE, REQUEST, "UTC", WINDOW, 5, ""))


CALLS: dict[str, tuple[Call, str, int]] = {
    # The call, an index it must use, and the most rows and index entries it may read.
    "admit": (Crowd.admit, "rate_limit_windows_pkey", 50),
    "create": (Crowd.insert, "spaces_pkey", 10),
    "find": (lambda crowd: crowd.jobs.find(50_000, CROWDED_SPACE), "export_jobs_pkey", 2),
    "list": (lambda crowd: crowd.jobs.older(CROWDED_SPACE, status=None, below=50_000, limit=200), "export_jobs", 2_000),
    "list back": (lambda crowd: crowd.jobs.newer(CROWDED_SPACE, status=None, above=50_000, limit=200), "export_jobs", 2_000),
    "find those that ended": (lambda crowd: crowd.jobs.ended(range(50_000, 50_064)), "export_jobs_pkey", 200),
    "list some": (
        lambda crowd: crowd.jobs.older(CROWDED_SPACE, status=ExportStatus.FAILED, below=50_000, limit=200),
        "export_jobs_of_space",
        10_000,
    ),
    "claim": (Crowd.claim, "export_jobs_oldest", 200),
    "claim in an empty process": (lambda crowd: crowd.claim(alone=True), "export_jobs_oldest", 200),
    "renew": (Crowd.renew, "export_jobs_claim", 500),
    "complete": (Crowd.complete, "export_attempts_pkey", 200),
    "try again": (Crowd.try_again, "export_jobs_claim", 200),
    "hand back": (Crowd.hand_back, "export_jobs_claim", 200),
    "cancel": (lambda crowd: crowd.jobs.cancel(FINISHED + RUNNING + 5_000, None), "export_jobs_pkey", 10),
    "rescue": (lambda crowd: crowd.claims.rescue(pause=PAUSE), "export_jobs_running", 200),
    "expire": (lambda crowd: crowd.files.expire(links_live=PAUSE), "export_jobs_expiry", 200),
    "find deletable files": (lambda crowd: crowd.files.deletable(), "export_jobs_undeleted", 200),
    "find leftovers": (lambda crowd: crowd.claims.leftovers(grace=timedelta(0)), "export_attempts_unclean", 500),
    "ask what is in use": (
        lambda crowd: crowd.claims.objects_in_use([f"object {number}" for number in range(100)]),
        "export_attempts_object_name_key",
        500,
    ),
    "forget": (lambda crowd: crowd.files.forget(age=timedelta(days=90)), "export_jobs_finished", 1_000),
}


async def test_no_statement_reads_more_than_it_needs(postgres_server: str, template_database: str) -> None:
    tables = {"export_jobs", "export_attempts", "spaces"}
    wrong = {}
    async with crowded_database(postgres_server, template_database) as url, connect(url) as sql:
        for name, (call, index, most) in CALLS.items():
            await sql.execute("BEGIN")
            for _ in range(EXECUTIONS):
                reads = await crowd(sql).reads(call)
                if reads.keys() & tables or sum(reads.values()) > most or not any(index in used for used in reads):
                    wrong[name] = reads
            await sql.execute("ROLLBACK")
    assert wrong == {}


async def test_a_claim_planned_on_an_empty_table_stays_cheap_when_the_queue_is_long(database_url: str) -> None:
    async with job_table(database_url) as jobs, connect(database_url) as sql:
        claims = crowd(sql).claims
        for _ in range(EXECUTIONS):
            assert await claims.claim("a worker", lease=LEASE, space_slots=2, alone=False) is None
        await jobs.sql.execute("INSERT INTO spaces (name, timezone) SELECT 'a space', 'UTC' FROM generate_series(1, 5000)")
        await jobs.queue_many([row["id"] for row in await jobs.sql.fetch("SELECT id FROM spaces ORDER BY id")])
        async with sql.transaction():
            reads = await crowd(sql).reads(Crowd.claim)
    assert sum(reads.values()) < 200, reads


def crowd(sql: asyncpg.Connection) -> Crowd:
    """The service's classes on this connection."""
    database = OneConnection(sql)
    return Crowd(sql, ExportJobs(database), ExportFiles(database), Claims(database, renewals=database), database)

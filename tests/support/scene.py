"""What a fault strikes: a database, a Space with contacts, a store; and what is promised of every export afterwards."""

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from service.client import ExportClient
from service.model import ExportRequest, Extra, NewExport, Window
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from tests.support.contacts import Tenant, add_contacts, expected_lines, lines_of, tenant
from tests.support.program import Program, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_row

ROWS = 3000
"""In parts of the smallest size these are several."""
READING = "SELECT 1 FROM export_jobs WHERE status = 'processing' AND phase = 'reading' HAVING count(*) = $1"
"""So many exports have begun to read."""
_YEAR = ExportRequest(datetime(2024, 1, 1), datetime(2024, 12, 31), (Extra.COMET_TOKENS,))
_WINDOW = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Scene:
    """`sql` is a connection of the test's own."""

    database_url: str
    sql: asyncpg.Connection
    space: Tenant
    store: StoreUnderTest
    directory: Path

    def settings(self, failpoints: str = "", **others: str) -> dict[str, str]:
        """Settings of a program that works here, with short times and small parts."""
        fixed = {"DATABASE_URL": self.database_url, "LEASE_SECONDS": "1", "ALLOW_FAILPOINTS": "1", "PART_SIZE": "16KiB"}
        return fixed | {"FAILPOINTS": failpoints} | self.store.settings | others

    async def queue(self, *, space: Tenant | None = None, max_attempts: int = 5) -> int:
        """The id of a new export of all contacts with their tokens, queued as the API does it."""
        async with Database(self.database_url, application_name="tests", size=1) as database:
            new = NewExport((space or self.space).space_id, _YEAR, "UTC", _WINDOW, max_attempts, "a request")
            return (await ExportJobs(database).insert(new)).job.export_id

    async def other_space(self, rows: int = ROWS) -> Tenant:
        """Another Space with contacts of its own."""
        other = await tenant(self.database_url)
        await add_contacts(self.sql, other.space_id, rows)
        return other

    async def killed(self, failpoints: str, **others: str) -> None:
        """A program ran with these failpoints until one of them killed it."""
        async with started(self.settings(failpoints, **others)) as victim:
            assert await victim.ended() == -signal.SIGKILL, victim.log

    def running(self, failpoints: str = "", **others: str) -> AbstractAsyncContextManager[Program]:
        """A program that is ready to work here, with a lease that a busy machine leaves it too."""
        return running(self.settings(failpoints, **({"LEASE_SECONDS": "2"} | others)))

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[asyncpg.Connection]:
        """Inside the block exports stand still at their first read, unless the connection's transaction is ended before."""
        blocker = await asyncpg.connect(self.database_url)
        try:
            await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
            yield blocker
        finally:
            blocker.terminate()

    async def uploads(self) -> list[str]:
        """The unfinished uploads of attempts. Those of a probe whose process was killed are removed an hour later."""
        return [name for name in await self.store.uploads() if not name.startswith(".probe/")]

    async def objects(self) -> list[str]:
        """The objects of attempts; see `uploads`."""
        return [name for name in await self.store.objects() if not name.startswith(".probe/")]

    async def attempts(self, export_id: int) -> list[asyncpg.Record]:
        """The rows of its attempts, in their order."""
        return list(await self.sql.fetch("SELECT * FROM export_attempts WHERE job_id = $1 ORDER BY started_at", export_id))

    async def outcomes(self, export_id: int) -> list[str | None]:
        """How its attempts ended, in their order."""
        return [attempt["outcome"] for attempt in await self.attempts(export_id)]

    async def assert_completed(
        self,
        program: Program,
        export_id: int,
        *,
        space: Tenant | None = None,
        attempts: int = 1,
        lost_leases: int = 0,
        handed_back: int = 0,
    ) -> None:
        """It completes after so many counted attempts, and a consumer downloads the right file."""
        space = space or self.space
        row = await until_ended(self.sql, export_id)
        found = (row["status"], row["attempts"], row["lost_leases"], row["handed_back"])
        assert found == ("completed", attempts, lost_leases, handed_back), row["error_detail"]
        assert (await self.outcomes(export_id)).count("completed") == 1
        async with ExportClient(program.address, space.key) as client:
            file = await client.download(await client.ended(export_id), self.directory / "file")
        assert lines_of(file.path) == await expected_lines(self.sql, space.space_id, tokens=True)

    async def assert_nothing_is_left(self) -> None:
        """In the store are soon the published files and nothing else; no attempt is open, no snapshot held."""
        rows = await self.sql.fetch("SELECT object_name FROM export_jobs WHERE status = 'completed'")
        published = sorted(row["object_name"] for row in rows)

        async def only_files_are_left() -> bool:
            return await self.uploads() == [] and await self.objects() == published

        await until_row(self.sql, "SELECT 1 WHERE NOT EXISTS (SELECT FROM export_attempts WHERE cleaned_at IS NULL)")
        await until(only_files_are_left)
        await until_row(
            self.sql,
            """SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'contact-exports export')""",
        )


@asynccontextmanager
async def scene(database_url: str, store: StoreUnderTest, directory: Path) -> AsyncIterator[Scene]:
    """A Space with contacts, and a key, in this database."""
    sql = await asyncpg.connect(database_url)
    try:
        space = await tenant(database_url)
        await add_contacts(sql, space.space_id, ROWS)
        yield Scene(database_url, sql, space, store, directory)
    finally:
        await sql.close()

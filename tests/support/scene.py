"""A database, a Space with contacts and a store for fault tests, and the checks that every export must pass afterwards."""

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
from tests.support.export_checks import NO_EXPORT_SESSION, ROWS, blocked_reads, expire_leases
from tests.support.program import Program, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_cleaned, until_ended, until_row

READING = "SELECT 1 FROM export_jobs WHERE status = 'processing' AND phase = 'reading' HAVING count(*) = $1"
"""This many exports have begun to read."""
_YEAR = ExportRequest(datetime(2024, 1, 1), datetime(2024, 12, 31), (Extra.COMET_TOKENS,))
_WINDOW = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Scene:
    """`sql` is a connection of the test itself."""

    database_url: str
    sql: asyncpg.Connection
    space: Tenant
    store: StoreUnderTest
    directory: Path

    def settings(self, failpoints: str = "", **others: str) -> dict[str, str]:
        """Return the settings of a program with failpoints, short delays and small parts."""
        fixed = {"DATABASE_URL": self.database_url, "ALLOW_FAILPOINTS": "1", "PART_SIZE": "16KiB"}
        return fixed | {"FAILPOINTS": failpoints} | self.store.settings | others

    async def queue(self, *, space: Tenant | None = None, max_attempts: int = 5) -> int:
        """Queue an export of all contacts with their tokens and return its id."""
        async with Database(self.database_url, application_name="tests", size=1) as database:
            new = NewExport((space or self.space).space_id, _YEAR, "UTC", _WINDOW, max_attempts, "a request")
            return (await ExportJobs(database).insert(new)).job.export_id

    async def other_space(self, rows: int = ROWS) -> Tenant:
        """Create another Space with contacts."""
        other = await tenant(self.database_url)
        await add_contacts(self.sql, other.space_id, rows)
        return other

    async def killed(self, failpoints: str, **others: str) -> None:
        """Run a program until a failpoint kills it; then expire its leases."""
        async with started(self.settings(failpoints, **others)) as victim:
            assert await victim.ended() == -signal.SIGKILL, victim.log
        await expire_leases(self.sql)

    def running(self, failpoints: str = "", **others: str) -> AbstractAsyncContextManager[Program]:
        """Run a program that is ready to work."""
        return running(self.settings(failpoints, **others))

    def blocked_reads(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Block exports in their first read; see `export_checks.blocked_reads`."""
        return blocked_reads(self.database_url)

    async def uploads(self) -> list[str]:
        """Return the unfinished uploads of attempts. Those of a killed process's probe are removed an hour later."""
        return [name for name in await self.store.uploads() if not name.startswith(".probe/")]

    async def objects(self) -> list[str]:
        """Return the objects of attempts; see `uploads`."""
        return [name for name in await self.store.objects() if not name.startswith(".probe/")]

    async def attempts(self, export_id: int) -> list[asyncpg.Record]:
        """Return the rows of the export's attempts in the order in which they started."""
        return list(await self.sql.fetch("SELECT * FROM export_attempts WHERE job_id = $1 ORDER BY started_at", export_id))

    async def outcomes(self, export_id: int) -> list[str | None]:
        """Return the outcomes of the export's attempts in the order in which they started."""
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
        """Wait until the export has completed after this many counted attempts, and check the file as a consumer."""
        space = space or self.space
        row = await until_ended(self.sql, export_id)
        found = (row["status"], row["attempts"], row["lost_leases"], row["handed_back"])
        assert found == ("completed", attempts, lost_leases, handed_back), row["error_detail"]
        assert (await self.outcomes(export_id)).count("completed") == 1
        async with ExportClient(program.address, space.key) as client:
            file = await client.download(await client.wait(export_id), self.directory / "file")
        assert lines_of(file.path) == await expected_lines(self.sql, space.space_id, tokens=True)

    async def assert_nothing_is_left(self) -> None:
        """Check that the store holds only published files, and that no attempt and no export session is open."""
        rows = await self.sql.fetch("SELECT object_name FROM export_jobs WHERE status = 'completed'")
        published = sorted(row["object_name"] for row in rows)

        async def only_files_are_left() -> bool:
            return await self.uploads() == [] and await self.objects() == published

        await until_cleaned(self.sql)
        await until(only_files_are_left)
        await until_row(self.sql, NO_EXPORT_SESSION)


@asynccontextmanager
async def scene(database_url: str, store: StoreUnderTest, directory: Path) -> AsyncIterator[Scene]:
    """A Space with contacts and a key in this database."""
    sql = await asyncpg.connect(database_url)
    try:
        space = await tenant(database_url)
        await add_contacts(sql, space.space_id, ROWS)
        yield Scene(database_url, sql, space, store, directory)
    finally:
        await sql.close()

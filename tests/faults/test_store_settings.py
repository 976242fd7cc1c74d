"""The program with settings of the store, or of a database, that do not fit or that change."""

from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.support import stores
from tests.support.calls import create
from tests.support.contacts import Tenant
from tests.support.jobs import connect
from tests.support.program import running
from tests.support.roles import role
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged


async def test_a_changed_storage_url_is_reported_at_startup_while_it_has_not_all_files(
    database_url: str, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    async with stores.directory_store(tmp_path / "elsewhere") as elsewhere, connect(database_url) as sql:
        async with running({"DATABASE_URL": database_url, **files.settings}) as program:
            old = await create(program, space)
            await until_ended(sql, old)
            assert program.events("file_not_in_store") == []
        async with running({"DATABASE_URL": database_url, **elsewhere.settings}) as program:
            await until_logged(program, "file_not_in_store", "STORAGE_URL")
            new = await create(program, space)
            await until_ended(sql, new)
        for settings, missing in ((elsewhere.settings, old), (files.settings, new)):
            async with running({"DATABASE_URL": database_url, **settings}) as program:
                await until_logged(program, "file_not_in_store")
                assert [line["export_id"] for line in program.events("file_not_in_store")] == [missing]


async def test_a_login_that_is_rotated_in_its_file_needs_no_restart(
    database_url: str, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    file = Secret(tmp_path / "url")
    async with AsyncExitStack() as roles, connect(database_url) as sql:
        old, new = [await roles.enter_async_context(role(database_url, "ALTER ROLE {} SUPERUSER")) for _ in range(2)]
        file.write(old)
        settings = {**files.settings, "DATABASE_URL_FILE": str(tmp_path / "url"), "MIGRATE_ON_START": "false"}
        async with running(settings) as program:
            await until_ended(sql, await create(program, space))
            name = urlsplit(old).username
            await sql.execute(f"ALTER ROLE {name} NOLOGIN")
            await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", name)
            file.write(new)
            await program.ready()
            row = await until_ended(sql, await create(program, space))
            assert row["status"] == "completed"


class Secret:
    """A file with a secret."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        """Replace the contents."""
        self._path.write_text(text)

"""The program with settings of the store, or of a database, that do not fit or that change."""

from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.calls import create
from tests.support.contacts import Tenant
from tests.support.jobs import connect
from tests.support.program import running
from tests.support.roles import role
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended


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

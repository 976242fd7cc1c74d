"""The program with settings of the store, or of a database, that do not fit or that change."""

from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support import stores
from tests.support.calls import create
from tests.support.contacts import Tenant
from tests.support.jobs import connect
from tests.support.object_stores import use_credentials
from tests.support.program import Program, running, started
from tests.support.roles import role
from tests.support.s3 import S3Access
from tests.support.shell import contact_exports
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_logged

pytestmark = pytest.mark.long


async def store_check(program: Program) -> str:
    """What /readyz says about the store."""
    async with aiohttp.request("GET", f"{program.address}/readyz") as response:
        return str((await response.json())["checks"]["store"])


async def test_a_wrong_region_is_named_by_readyz_and_by_storage_init(
    database_url: str, s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_credentials(monkeypatch, s3)
    sentence = f"S3_REGION is eu-west-7, but the bucket is in {s3.region}"
    async with stores.s3_store(s3, bucket) as store:
        settings = {"DATABASE_URL": database_url, **store.settings, "S3_REGION": "eu-west-7"}
        ended = await contact_exports("storage", "init", **settings)
        assert (ended.code, sentence in ended.errors) == (1, True)
        async with started(settings) as program:
            await program.listening()
            await until_logged(program, "store_not_usable", sentence)

            async def named() -> bool:
                return sentence in await store_check(program)

            await until(named)
        async with running({**settings, "S3_REGION": s3.region}) as program:
            assert await store_check(program) == "ok"


async def test_an_endpoint_that_does_not_respond_is_named_by_its_setting_but_readyz_shows_no_address(
    database_url: str, s3: S3Access, bucket: str
) -> None:
    settings = {**stores.s3_settings(s3, bucket, prefix="x"), "S3_ENDPOINT_URL": "http://127.0.0.1:1"}
    async with started({"DATABASE_URL": database_url, **settings}) as program:
        await program.listening()
        await until_logged(program, "store_not_usable", "check S3_ENDPOINT_URL")

        async def named() -> bool:
            return "check S3_ENDPOINT_URL: nothing responds there." in await store_check(program)

        await until(named)
        assert "127.0.0.1" not in await store_check(program)


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

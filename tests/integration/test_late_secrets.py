"""Credentials and passwords that were missing at startup, or that are replaced while the process runs."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from aiobotocore.credentials import AioCredentialResolver
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.errors import DatabaseUnavailable
from service.failures import StorageRefused, StorageUnavailable
from service.postgres.pool import Database
from service.process import database_addresses
from service.setting_source import load
from service.settings import Settings
from service.storage.s3 import credentials
from tests.support.jobs import connect
from tests.support.object_stores import Place, s3_place, use_credentials
from tests.support.roles import role
from tests.support.s3 import S3Access
from tests.support.waiting import until

NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"


class Shared:
    """A file that is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        """Replace the contents."""
        self._path.write_text(text)

    def remove(self) -> None:
        """Delete the file."""
        self._path.unlink()


@pytest.fixture
def shared_file(s3: S3Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    """The file in which the client library looks for credentials; it does not exist. There are none elsewhere."""
    use_credentials(monkeypatch, s3)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return Shared(path)


def profile(access_key: str, secret_key: str) -> str:
    """The contents of a file with one profile."""
    return f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"


async def usable(place: Place) -> bool:
    """Whether the store accepts calls and its links work."""
    try:
        await place.store.probe()
    except (StorageRefused, StorageUnavailable):
        return False
    return True


async def test_credentials_that_appear_after_startup_are_used(s3: S3Access, bucket: str, shared_file: Shared) -> None:
    async with s3_place(s3, bucket) as place:
        with pytest.raises(StorageRefused, match="NoCredentialsError"):
            await place.store.probe()
        with pytest.raises(StorageRefused, match="NoCredentialsError"):
            await place.link(NAME)
        shared_file.write(profile(s3.access_key, s3.secret_key))
        await until(lambda: usable(place))
        await place.put(NAME, b"x")
        assert (await place.fetch(NAME)).body == b"x"


async def test_a_metadata_service_that_was_down_at_startup_is_asked_again(
    s3: S3Access, bucket: str, shared_file: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiobotocore.utils.AioContainerMetadataFetcher.SLEEP_TIME", 0)
    up = False

    async def serve(_: web.Request) -> web.Response:
        if not up:
            raise web.HTTPServiceUnavailable
        keys = {"AccessKeyId": s3.access_key, "SecretAccessKey": s3.secret_key, "Token": "token"}
        return web.json_response({**keys, "Expiration": "2099-01-01T00:00:00Z"})

    app = web.Application()
    app.router.add_get("/credentials", serve)
    async with TestServer(app) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", str(server.make_url("/credentials")))
        async with s3_place(s3, bucket) as place:
            with pytest.raises((StorageRefused, StorageUnavailable)):
                await place.store.probe()
            up = True
            await until(lambda: usable(place))


async def test_credentials_in_a_file_are_read_again(
    s3: S3Access, bucket: str, shared_file: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_REREAD_AFTER", timedelta(0))
    shared_file.write(profile(s3.access_key, "an old secret"))
    async with s3_place(s3, bucket) as place:
        with pytest.raises(StorageRefused, match="SignatureDoesNotMatch"):
            await place.store.probe()
        shared_file.write(profile(s3.access_key, s3.secret_key))
        await place.store.probe()
        for broken in ("[default", "", "[default]\naws_access_key_id = x\n"):
            shared_file.write(broken)
            await place.store.probe()
        shared_file.remove()
        await place.store.probe()


async def test_many_calls_without_credentials_search_for_them_once(
    s3: S3Access, bucket: str, shared_file: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = 0
    search = AioCredentialResolver.load_credentials

    async def count(resolver: AioCredentialResolver) -> object:
        nonlocal searches
        searches += 1
        return await search(resolver)

    monkeypatch.setattr(credentials, "_ABSENT_FOR", timedelta(hours=1))
    monkeypatch.setattr(AioCredentialResolver, "load_credentials", count)
    async with s3_place(s3, bucket) as place:
        results = await asyncio.gather(*(place.link(NAME) for _ in range(20)), return_exceptions=True)
    assert {type(result) for result in results} == {StorageRefused}
    assert searches == 1


# Databases -----------------------------------------------------------------------------------------------------------


async def test_a_rotated_login_in_a_file_is_used_for_the_next_connection(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Shared(tmp_path / "url")
    monkeypatch.setenv("DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("STORAGE_URL", "file:///files")
    async with role(database_url, "SELECT") as old, role(database_url, "SELECT") as new, connect(database_url) as owner:
        file.write(old)
        settings = load()
        address = database_addresses.main_address(settings)
        assert database_addresses.contacts_address(settings) is not None
        async with Database(address, application_name="tests", size=1) as database:
            await database.ping()
            old_name = old.partition("//")[2].partition(":")[0]
            await owner.execute(f"ALTER ROLE {old_name} NOLOGIN")
            await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1", old_name)
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
            file.remove()
            with pytest.raises(DatabaseUnavailable):
                await database.ping()
            file.write(f"{new}\n")
            await database.ping()
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT current_user") == new.partition("//")[2].partition(":")[0]


def test_an_address_that_was_not_read_from_a_file_ignores_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "url"
    file.write_text("postgresql://other.test/other")
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    settings = Settings(database_url="postgresql://db.test/ours", storage_url="file:///files")
    for address in (database_addresses.main_address, database_addresses.direct_address, database_addresses.contacts_address):
        assert address(settings) == "postgresql://db.test/ours"

"""Fixtures of the end-to-end tests."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support import s3 as s3_support
from tests.support import stores
from tests.support.contacts import Tenant, tenant
from tests.support.object_stores import use_credentials
from tests.support.s3 import S3Access
from tests.support.stores import StoreUnderTest


@pytest.fixture(params=["directory", "s3"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StoreUnderTest]:
    """Each of the two object stores, in turn."""
    if request.param == "directory":
        async with stores.directory_store(tmp_path / "files") as under_test:
            yield under_test
        return
    access: S3Access = request.getfixturevalue("s3")
    use_credentials(monkeypatch, access)
    async with s3_support.bucket(access) as bucket, stores.s3_store(access, bucket) as under_test:
        yield under_test


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory with a short path, because the path of a unix socket is limited to about 100 bytes."""
    with tempfile.TemporaryDirectory(prefix="ce-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to this test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def space(database_url: str) -> Tenant:
    """A Space with a key that has all scopes."""
    return await tenant(database_url)

"""Fixtures of the fault tests: those of the end-to-end tests, servers that can be stopped, and scenes."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres
from tests.e2e.conftest import connection, space, store
from tests.support import s3 as s3_support
from tests.support import stores
from tests.support.object_stores import use_credentials
from tests.support.s3 import S3Access
from tests.support.scene import Scene
from tests.support.scene import scene as make_scene
from tests.support.stores import StoreUnderTest
from tests.support.swift import SwiftS3

__all__ = ["connection", "space", "store"]


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, not started yet."""
    server = EmbeddedPostgres(tmp_path / "postgres", parameters={"fsync": "off"})
    yield server
    server.stop("immediate")


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory as object store."""
    async with stores.directory_store(tmp_path / "files") as store:
        yield store


@pytest.fixture
async def scene(database_url: str, tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene that stores files in a directory."""
    async with stores.directory_store(tmp_path / "files") as files, make_scene(database_url, files, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def s3_of_small_parts() -> Iterator[S3Access]:
    """A real S3 store whose smallest part size is 16 KiB."""
    with SwiftS3(minimum_part_bytes=16 * 1024) as swift:
        yield S3Access(swift.endpoint_url, swift.access_key, swift.secret_key, swift.region)


@pytest.fixture
async def s3_scene(
    database_url: str, s3_of_small_parts: S3Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """A scene that stores files in a bucket."""
    use_credentials(monkeypatch, s3_of_small_parts)
    async with (
        s3_support.bucket(s3_of_small_parts) as bucket,
        stores.s3_store(s3_of_small_parts, bucket) as files,
        make_scene(database_url, files, tmp_path) as made,
    ):
        yield made

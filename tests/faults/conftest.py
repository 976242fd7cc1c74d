"""Fixtures of the tests that break things: those of the tests that run the whole program, and servers to be broken."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres
from tests.e2e.conftest import connection, space, store
from tests.support import stores
from tests.support.stores import StoreUnderTest

__all__ = ["connection", "space", "store"]


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of the test's own, to be stopped and started; it is not running yet."""
    server = EmbeddedPostgres(tmp_path / "postgres", parameters={"fsync": "off"})
    yield server
    server.stop("immediate")


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory as object store."""
    async with stores.directory_store(tmp_path / "files") as store:
        yield store

"""Fixtures of the integration tests: a site and a connection, both on the test's own database."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.jobs import connect
from tests.support.web import Site, site


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database."""
    async with connect(database_url) as connection:
        yield connection


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site whose rate limits no test reaches."""
    async with site(database_url, tmp_path) as running:
        yield running

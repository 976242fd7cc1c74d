"""Fixtures of all tests; `tests.support` implements them."""

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from tests.support import postgres, s3_faults
from tests.support import s3 as s3_support
from tests.support.s3 import S3Access
from tests.support.s3_faults import S3Faults

settings.register_profile("thousands", max_examples=2_000)

# `nohup` and shells that start background jobs ignore these signals, and child processes inherit that. A signal with a
# handler gets its default action again in a child process, so the programs that tests start can be interrupted.
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of the session's Postgres."""
    with postgres.server() as url:
        yield url


@pytest.fixture(scope="session")
def template_database(postgres_server: str) -> Iterator[str]:
    """The name of the session's migrated template database; tests only copy it."""
    with postgres.migrated_template(postgres_server) as name:
        yield name


@pytest.fixture
async def database_url(postgres_server: str, template_database: str) -> AsyncIterator[str]:
    """The URL of this test's own migrated database."""
    async with postgres.database(postgres_server, template_database) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: str) -> AsyncIterator[str]:
    """The URL of this test's own database, not migrated."""
    async with postgres.database(postgres_server, "template0") as url:
        yield url


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Access]:
    """The session's S3 store."""
    with s3_support.store() as access:
        yield access


@pytest.fixture
async def bucket(s3: S3Access) -> AsyncIterator[str]:
    """The name of this test's own bucket."""
    async with s3_support.bucket(s3) as name:
        yield name


@pytest.fixture
async def faults(s3: S3Access) -> AsyncIterator[S3Faults]:
    """A proxy in front of the session's S3 store that injects faults."""
    async with s3_faults.s3_faults(s3.endpoint_url) as proxy:
        yield proxy

"""Databases for the tests: one server per session, one migrated template, and one copy of it per test.

TEST_DATABASE_URL names an existing server by the URL of a role that may create databases; otherwise an embedded server runs
for the session. The tests fail if neither is available.
"""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from service.embedded.postgres import EmbeddedPostgres
from service.postgres.migrate import migrate

_PARAMETERS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""The tests need no durability, and commit often."""


@contextmanager
def server() -> Iterator[str]:
    """Yield the URL of a server for the session."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    with (
        tempfile.TemporaryDirectory(prefix="contact-exports-tests-") as directory,
        EmbeddedPostgres(Path(directory, "postgres"), parameters=_PARAMETERS) as postgres,
    ):
        yield postgres.dsn()


@contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """Yield the name of a database that contains only what the migrations create."""
    name = f"contact_exports_template_{secrets.token_hex(4)}"

    async def create() -> None:
        await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        await migrate(_url_of(server_url, name))

    asyncio.run(create())
    try:
        yield name
    finally:
        asyncio.run(_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)"))


@asynccontextmanager
async def database(server_url: str, template: str) -> AsyncIterator[str]:
    """Yield the URL of a new copy of `template`; it is dropped afterwards even if sessions are still connected."""
    name = f"contact_exports_test_{secrets.token_hex(8)}"
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield _url_of(server_url, name)
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _url_of(server_url: str, name: str) -> str:
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()

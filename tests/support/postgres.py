"""Databases for the tests: one server a session, one migrated template, one copy of it a test.

TEST_DATABASE_URL names an existing server, by the URL of a role that may create databases; otherwise an
embedded one runs for the session. Where neither can be had the tests fail.
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
"""Nothing here has to survive the machine, and many small commits are what tests do."""


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server for the session."""
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
    """The name of a database that holds what the migrations make and nothing else."""
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
    """The URL of a new copy of `template`, dropped afterwards whoever is still connected."""
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

"""The servers of a run: a Postgres that is restarted, a real S3 server, and a proxy in front of it that fails at random."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from service.embedded.postgres import EmbeddedPostgres, StopMode
from service.storage import ObjectStore
from service.storage.s3 import S3Settings, S3Store
from tests.support.program import environment
from tests.support.receiver import write_authority
from tests.support.s3 import S3Access
from tests.support.s3_faults import (
    S3Faults,
    error_in_success,
    lose_request,
    lose_response,
    respond,
    respond_late,
    s3_faults,
)
from tests.support.stores import credentials
from tests.support.swift import SwiftS3

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

LEASE_SECONDS = 2.0
SWEEP_SECONDS = 0.5
GRACE_SECONDS = 1.0
MAX_ATTEMPTS = 8
SPACE_SLOTS = 2
EXPORT_SLOTS = 3
PART_BYTES = 16 * 1024
PREFIX = "exports"
_BUCKET = "chaos"

TROUBLE = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""Errors of a session whose server is restarted or that is terminated."""

_ORACLE = Path(__file__).with_name("oracle.sql")
# Commits must survive an immediate restart of the server, but not of the machine.
_PARAMETERS = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}
_FAULT = 0.02
_SETTINGS = {
    "LEASE_SECONDS": f"{LEASE_SECONDS}",
    "SWEEP_SECONDS": f"{SWEEP_SECONDS}",
    "GRACE_SECONDS": f"{GRACE_SECONDS}",
    "MAX_ATTEMPTS": f"{MAX_ATTEMPTS}",
    "SPACE_SLOTS": f"{SPACE_SLOTS}",
    "EXPORT_SLOTS": f"{EXPORT_SLOTS}",
    "PART_SIZE": f"{PART_BYTES}",
    "RETRY_SECONDS": "0.1",
    "NO_PROGRESS_SECONDS": "20",
    "FETCH_TIMEOUT_SECONDS": "10",
    "RATE_LIMIT_CREATE": "100000/minute",
    "RATE_LIMIT_STATUS": "100000/minute",
    "WEBHOOK_TIMEOUT_SECONDS": "1",
    "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
    "ALLOW_FAILPOINTS": "1",
}


@dataclass
class World:
    """`code` contains the `service` and `sql` under test; `client` reaches the store without the proxy."""

    code: Path
    directory: Path
    postgres: EmbeddedPostgres
    s3: S3Access
    client: "S3Client"
    faults: S3Faults

    @property
    def url(self) -> str:
        """The URL of the database."""
        return self.postgres.dsn("chaos")

    def environment(self, replica: str, failpoints: str) -> dict[str, str]:
        """Return the environment of a process; its database sessions carry the replica's name."""
        settings = {
            **_SETTINGS,
            "DATABASE_URL": f"{self.url}&chaos.replica={replica}",
            "STORAGE_URL": f"s3://{_BUCKET}/{PREFIX}",
            "S3_ENDPOINT_URL": self.faults.endpoint_url,
            "S3_PUBLIC_ENDPOINT_URL": self.s3.endpoint_url,
            "S3_REGION": self.s3.region,
            "S3_ADDRESSING_STYLE": "path",
            "WEBHOOK_CA_FILE": str(write_authority(self.directory / "ca.pem")),
            **credentials(self.s3),
        }
        return environment(settings | ({"FAILPOINTS": failpoints} if failpoints else {}))

    def break_store(self, rng: random.Random) -> None:
        """Let requests to the store fail at random from now on."""
        faults = (
            respond(500, "InternalError"),
            respond(503, "SlowDown"),
            lose_request,
            lose_response,
            respond_late(1.0),
            error_in_success,
        )
        self.faults.randomly(rng, dict.fromkeys(faults, _FAULT))

    async def restart_postgres(self, mode: StopMode, *, down: float) -> None:
        """Stop the server, wait `down` seconds and start it with the same data and socket."""
        try:
            await asyncio.to_thread(self.postgres.stop, mode)
            await asyncio.sleep(down)
        finally:
            await asyncio.to_thread(self.postgres.start)

    async def objects(self) -> dict[str, str]:
        """Return the name of every object but the marker, as the rows have it, and its ETag and modification time."""
        found = {}
        async for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(f"{PREFIX}/")
                if name != ".owner.json":
                    found[name] = f"{entry['ETag']} {entry['LastModified']}"
        return found

    async def uploads(self) -> list[str]:
        """Return the names of the unfinished uploads."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=_BUCKET)
        return [upload["Key"].removeprefix(f"{PREFIX}/") async for page in pages for upload in page.get("Uploads", [])]

    async def content(self, object_name: str) -> tuple[bytes, dict[str, str]]:
        """Return the bytes of an object and its metadata."""
        response = await self.client.get_object(Bucket=_BUCKET, Key=f"{PREFIX}/{object_name}")
        return await response["Body"].read(), response["Metadata"]

    @asynccontextmanager
    async def store(self) -> AsyncIterator[ObjectStore]:
        """The store as the service sees it, without faults."""
        opened = S3Settings(
            _BUCKET, prefix=PREFIX, endpoint_url=self.s3.endpoint_url, region=self.s3.region, addressing_style="path"
        )
        async with S3Store.open(opened) as store:
            yield store

    @asynccontextmanager
    async def connection(self, application_name: str = "chaos") -> AsyncIterator[asyncpg.Connection]:
        """Open a session of the test itself; it is terminated at the end of the block."""
        connection = await asyncpg.connect(self.url, server_settings={"application_name": application_name}, timeout=10)
        try:
            yield connection
        finally:
            connection.terminate()


@asynccontextmanager
async def world(code: Path, directory: Path) -> AsyncIterator[World]:
    """Start the servers, migrate the database with the code under test, and install the oracle."""
    postgres = EmbeddedPostgres(directory / "postgres", parameters=_PARAMETERS)
    swift = SwiftS3(minimum_part_bytes=1)
    try:
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(swift.start))
        s3 = S3Access(swift.endpoint_url, swift.access_key, swift.secret_key, swift.region)
        os.environ.update(credentials(s3))  # for `World.store`
        async with s3.client() as client, s3_faults(s3.endpoint_url) as faults:
            await client.create_bucket(Bucket=_BUCKET)
            made = World(code, directory, postgres, s3, client, faults)
            await _create_database(made)
            yield made
    finally:
        await asyncio.gather(asyncio.to_thread(postgres.stop, "immediate"), asyncio.to_thread(swift.stop))


async def _create_database(made: World) -> None:
    connection = await asyncpg.connect(made.postgres.dsn())
    await connection.execute("CREATE DATABASE chaos")
    await connection.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "migrate"),
        cwd=made.code,
        env=made.environment("", ""),
        stderr=asyncio.subprocess.PIPE,
    )
    _, messages = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the migrations in {made.code} failed\n{messages.decode()}")
    async with made.connection() as session:
        await session.execute(_ORACLE.read_text().replace("{space_slots}", str(SPACE_SLOTS)))

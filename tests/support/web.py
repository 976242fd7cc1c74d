"""The HTTP side of the service on a real socket, over a database and a directory of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from aiohttp.test_utils import TestClient, TestServer
from limits.aio.storage import Storage

from service.access import Access
from service.exports.priority import RequestPriority
from service.exports.use_cases import Exports
from service.model import Claim, Scope, StoredFile
from service.postgres.access import AccessTables
from service.postgres.claims import Claims
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from service.postgres.rate_limits import PostgresStorage
from service.postgres.shared_secrets import SharedSecrets
from service.storage.directory import DirectoryStore
from service.web.app import create_app
from service.web.cursors import Cursors
from service.web.handlers import Readiness
from service.web.rate_limits import Throttle
from tests.support.stores import link_secret

EXPORTS = "/public-api/v1/contacts/exports"
BODY = {"start_date": "2024-01-15 00:00:00", "end_date": "2024-01-15 23:59:59"}
Client = TestClient[Any, Any]


@dataclass
class RawAnswer:
    """An answer as it came over the wire; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A running HTTP side, and what stands behind it. `faults`, `starting` and `alive` can be set by a test."""

    client: Client
    database: Database
    callers: Access
    store: DirectoryStore
    faults: dict[str, str | None]
    starting: Exception | None = None
    alive: bool = True
    cancelled: list[UUID] = field(default_factory=list)
    """Claims whose attempts a cancellation ended."""

    async def caller(self, *scopes: Scope, zone: str = "UTC") -> dict[str, str]:
        """Headers with a key of a new Space that has these scopes, all of them by default."""
        space_id = await self.callers.create_space("a space", zone)
        key = await self.callers.create_key(space_id, scopes or Scope)
        return {"Authorization": f"Bearer {key}"}

    async def create(self, headers: dict[str, str]) -> int:
        """The id of a new export."""
        answer = await self.client.post(EXPORTS, json=BODY, headers=headers)
        assert answer.status == 202, await answer.text()
        return int((await answer.json())["export_id"])

    async def claim(self) -> Claim:
        """Start work on the export that waits."""
        claim = await self.claims.claim("a worker", lease=timedelta(minutes=5), space_slots=9, alone=True)
        assert claim is not None
        return claim

    async def complete(self, data: bytes) -> Claim:
        """Complete the export that waits, with a file that holds `data`."""
        claim = await self.claim()
        async with self.store.upload(claim.object_name, part_size=len(data), filename="", metadata={}) as upload:
            await upload.put_part(1, [data])
            await upload.complete()
        at = datetime(2024, 1, 16, 9, 30, 15, 999_999, UTC)
        file = StoredFile(3, len(data), "ab" * 32)
        lifetime = timedelta(hours=24)
        assert await self.claims.complete(claim, file, snapshot_at=at, complete_until=None, file_lifetime=lifetime)
        return claim

    async def send(self, head: str | bytes, body: bytes = b"") -> RawAnswer:
        """Send bytes that no client library would, and read the answer to the end of the connection."""
        reader, writer = await self.connect()
        try:
            lines = head.encode() if isinstance(head, str) else head
            writer.write(lines.strip().replace(b"\n", b"\r\n") + b"\r\nConnection: close\r\n\r\n" + body)
            start, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status, *fields = start.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        return RawAnswer(int(status.split()[1]), headers, rest)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the site."""
        return await asyncio.open_connection(self.client.host, self.client.port)

    @property
    def claims(self) -> Claims:
        """What a worker would write."""
        return Claims(self.database, renewals=self.database)


@asynccontextmanager
async def site(
    database_url: str,
    directory: Path,
    *,
    create_export: str = "1000/minute",
    get_export: str = "1000/minute",
    other: str = "1000/minute",
    storage: Storage | None = None,
    public_url: str | None = None,
    link_lifetime: timedelta = timedelta(minutes=15),
    max_range_days: int | None = None,
) -> AsyncIterator[Site]:
    """A site with the limits given as `limits` writes them, kept in the database unless there is a `storage`."""
    store = DirectoryStore(directory, link_secret, link_lifetime)
    await store.create()
    async with Database(database_url, application_name="tests", size=5) as database:
        callers = Access(AccessTables(database))
        faults: dict[str, str | None] = {"database": None, "storage": None, "schema": None}
        running: list[Site] = []

        async def ready() -> Readiness:
            return Readiness(faults)

        def started() -> None:
            if running[0].starting is not None:
                raise running[0].starting

        app = create_app(
            callers=callers,
            exports=Exports(
                ExportJobs(database),
                ExportFiles(database),
                store,
                max_attempts=1,
                max_range_days=max_range_days,
                created=lambda: None,
                cancelled=lambda claim_id: running[0].cancelled.append(claim_id),
            ),
            cursors=Cursors(partial(SharedSecrets(database).get, "cursors")),
            throttle=Throttle(
                storage or PostgresStorage(database=database),
                create_export=create_export,
                get_export=get_export,
                other=other,
            ),
            priority=RequestPriority(),
            alive=lambda: running[0].alive,
            ready=ready,
            started=started,
            local_files=store.open_link,
            public_url=public_url,
        )
        async with TestClient(TestServer(app)) as client:
            running.append(Site(client, database, callers, store, faults))
            yield running[0]

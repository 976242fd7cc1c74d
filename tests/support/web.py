"""The HTTP side of the service on a real socket, with a database and a directory of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast
from uuid import UUID

from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application

from service.access import Access
from service.contacts.use_cases import Contacts
from service.exports.priority import RequestPriority
from service.exports.use_cases import ExportRules, Exports, ProcessHooks
from service.exports.waiting import Waiters
from service.model import Claim, Scope, StoredFile
from service.postgres.access import AccessTables
from service.postgres.claims import Claims
from service.postgres.contacts import ContactReads
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from service.postgres.rate_limits import PostgresWindows
from service.postgres.shared_secrets import SharedSecrets
from service.storage.directory import DirectoryStore
from service.web.app import WebServices, build_app
from service.web.health import Readiness
from service.web.paging import Cursors
from service.web.places import Connections
from service.web.rate_limit_windows import RateLimitWindows
from service.web.rate_limits import RateLimitBucket, Throttle
from service.web.server import SERVER_OPTIONS, GuardedRunner
from tests.support.documented import Documented
from tests.support.stores import link_secret

EXPORTS = "/public-api/v1/contacts/exports"
BODY = {"start_date": "2024-01-15 00:00:00", "end_date": "2024-01-15 23:59:59"}
CONNECTIONS = 500
UNREACHED = "1000/minute"
Client = TestClient[Any, Any]


@dataclass
class RawResponse:
    """A response as received; names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A running HTTP side and the services it calls. A test may set `checks`, `starting` and `alive`."""

    client: Client
    database: Database
    callers: Access
    store: DirectoryStore
    checks: dict[str, str | None]
    priority: RequestPriority
    waiters: Waiters
    starting: Exception | None = None
    alive: bool = True
    cancelled: list[UUID] = field(default_factory=list)
    """Claims whose attempts were cancelled."""
    documented: Documented = field(default_factory=Documented)
    """What the site sent, compared with the description of the API."""

    async def caller(self, *scopes: Scope, zone: str = "UTC") -> dict[str, str]:
        """Headers with a key of a new Space. The key has these scopes, all of them by default."""
        space_id = await self.callers.create_space("a space", zone)
        key = await self.callers.create_key(space_id, scopes or Scope)
        return {"Authorization": f"Bearer {key}"}

    async def create(self, headers: dict[str, str]) -> int:
        """The id of a new export."""
        response = await self.client.post(EXPORTS, json=BODY, headers=headers)
        assert response.status == 202, await response.text()
        return int((await response.json())["export_id"])

    async def claim(self) -> Claim:
        """Claim the queued export."""
        claim = await self.claims.claim("a worker", lease=timedelta(minutes=5), space_slots=9, alone=True)
        assert claim is not None
        return claim

    async def complete(self, data: bytes) -> Claim:
        """Claim and complete the queued export, with a file that contains `data`."""
        claim = await self.claim()
        await self.complete_claimed(claim, data)
        return claim

    async def complete_claimed(self, claim: Claim, data: bytes) -> None:
        """Complete a claimed export, with a file that contains `data`."""
        async with self.store.upload(claim.object_name, part_size=len(data), filename="", metadata={}) as upload:
            await upload.put_part(1, [data])
            await upload.complete()
        at = datetime(2024, 1, 16, 9, 30, 15, 999_999, UTC)
        file = StoredFile(3, len(data), "ab" * 32)
        lifetime = timedelta(hours=24)
        # Not inside the assert: the call must run under `python -OO` too.
        completed = await self.claims.complete(claim, file, snapshot_at=at, complete_until=None, file_lifetime=lifetime)
        assert completed

    async def send(self, head: str | bytes, body: bytes = b"") -> RawResponse:
        """Send bytes that no client library would send, and read until the server closes the connection."""
        reader, writer = await self.connect()
        try:
            lines = head.encode() if isinstance(head, str) else head
            writer.write(lines.strip().replace(b"\n", b"\r\n") + b"\r\nConnection: close\r\n\r\n" + body)
            start, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        status, *fields = start.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        return RawResponse(int(status.split()[1]), headers, rest)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the site."""
        return await asyncio.open_connection(self.client.host, self.client.port)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(cast(GuardedTestServer, self.client.server).connections)

    @property
    def claims(self) -> Claims:
        """The claims of a worker."""
        return Claims(self.database, renewals=self.database)


class GuardedTestServer(TestServer):
    """The application behind the connection limits of the service."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self.connections = Connections(CONNECTIONS)

    async def _make_runner(self, **_: Any) -> GuardedRunner:
        return GuardedRunner(self.app, self.connections, shutdown_timeout=1.0, **SERVER_OPTIONS)


class SiteOptions(TypedDict, total=False):
    """Options of `site`. Limits are written as `limits` reads them; without `windows` they are in the database."""

    create_export: str
    get_export: str
    list_contacts: str
    get_contact: str
    other: str
    windows: RateLimitWindows
    public_url: str
    link_lifetime: timedelta
    max_range_days: int
    queue_limit: int
    waiters_per_space: int
    waiters_per_process: int
    contacts_url: str
    contacts_pool_size: int
    contacts_timeout: float
    large_pages: int
    api_docs: bool
    cors_origins: tuple[str, ...]


@asynccontextmanager
async def site(database_url: str, directory: Path, **options: Unpack[SiteOptions]) -> AsyncIterator[Site]:
    """Run a site whose rate limits, unless given, no test reaches.

    Fails at the end if a response was sent that the OpenAPI document does not describe.
    """
    limits = {bucket: str(options.get(bucket.name.lower(), UNREACHED)) for bucket in RateLimitBucket}
    store = DirectoryStore(directory, link_secret, options.get("link_lifetime", timedelta(minutes=15)))
    await store.create()
    contact_reads = ContactReads(
        options.get("contacts_url", database_url),
        options.get("contacts_pool_size", 4),
        timedelta(seconds=options.get("contacts_timeout", 60.0)),
    )
    async with Database(database_url, application_name="tests", size=5) as database, contact_reads:
        access = Access(AccessTables(database))
        checks: dict[str, str | None] = {"database": None, "storage": None, "schema": None}
        priority = RequestPriority()
        waiters = Waiters(
            ExportJobs(database),
            priority,
            per_space=options.get("waiters_per_space", 1000),
            per_process=options.get("waiters_per_process", 1000),
        )
        cancelled: list[UUID] = []
        running: list[Site] = []

        async def ready() -> Readiness:
            return Readiness(checks)

        def require_started() -> None:
            if running[0].starting is not None:
                raise running[0].starting

        services = WebServices(
            access=access,
            exports=Exports(
                ExportJobs(database),
                ExportFiles(database),
                store,
                ExportRules(1, options.get("max_range_days"), options.get("queue_limit")),
                waiters,
                ProcessHooks(lambda: None, cancelled.append, priority.paused),
            ),
            contacts=Contacts(
                contact_reads,
                priority,
                max_range_days=options.get("max_range_days"),
                large_pages=options.get("large_pages", 2),
            ),
            rate_limits=Throttle(options.get("windows") or PostgresWindows(database), limits),
            cursors=Cursors(partial(SharedSecrets(database).get, "cursors")),
            priority=priority,
            require_started=require_started,
            alive=lambda: running[0].alive,
            ready=ready,
            open_link=store.open_link,
        )
        app = build_app(
            services,
            public_url=options.get("public_url"),
            api_docs=options.get("api_docs", True),
            cors_origins=options.get("cors_origins", ()),
        )
        documented = Documented()
        app.on_response_prepare.append(documented.compare)
        with waiters.listening():
            async with TestClient(GuardedTestServer(app)) as client:
                running.append(
                    Site(
                        client,
                        database,
                        access,
                        store,
                        checks,
                        priority,
                        waiters,
                        documented=documented,
                        cancelled=cancelled,
                    )
                )
                yield running[0]
        assert not documented.undescribed, documented.undescribed

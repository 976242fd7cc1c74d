"""The outbox for tests: endpoints, deliveries and a deliverer in this process."""

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg

from service.postgres.webhook_deliveries import ClaimedDelivery, WebhookDeliveries
from service.postgres.webhook_endpoints import WebhookEndpoints
from service.webhooks.allowed import AllowList
from service.webhooks.deliverer import Deliverer, DelivererOptions
from service.webhooks.sending import Sender
from service.webhooks.signing import secret_text
from tests.support.jobs import JobTable, job_table
from tests.support.receiver import lookup_of, trusting

COMPLETED, FAILED = "contact.export.completed", "contact.export.failed"
CANCELLED, EXPIRED = "contact.export.cancelled", "contact.export.expired"
USUAL = (COMPLETED, FAILED, CANCELLED)
LOOPBACK = AllowList(networks=(ipaddress.ip_network("127.0.0.0/8"),))
LEASE = timedelta(minutes=1)
MARGIN = timedelta(seconds=30)


def sender(
    *,
    allow: AllowList = LOOPBACK,
    tls: ssl.SSLContext | None = None,
    seconds: float = 10.0,
    lookup: Callable[[str, int], list[tuple[Any, ...]]] | None = None,
) -> Sender:
    """A sender that trusts the receivers of tests and finds them at the loopback address."""
    return Sender(allow, tls or trusting(), timedelta(seconds=seconds), lookup=lookup or lookup_of("127.0.0.1"))


@dataclass(frozen=True)
class Outbox:
    """`jobs` makes exports; `deliveries` and `endpoints` are the service's classes."""

    jobs: JobTable
    deliveries: WebhookDeliveries
    endpoints: WebhookEndpoints

    @property
    def sql(self) -> asyncpg.Connection:
        """A connection of the test."""
        return self.jobs.sql

    async def space(self, url: str = "https://hooks.test/", events: Sequence[str] = USUAL) -> tuple[int, str]:
        """Add a Space with an endpoint; returns its id and the endpoint's secret."""
        space_id = await self.jobs.space()
        secret = await self.endpoints.set(space_id, url, events)
        assert secret is not None
        return space_id, secret_text(secret)

    async def ended(self, space_id: int, count: int = 1) -> list[int]:
        """Cancel this many new exports of the Space, so that each has a delivery; returns their ids."""
        ids = await self.jobs.queue_many([space_id] * count)
        await self.sql.execute("SELECT cancel_export(id) FROM unnest($1::bigint[]) WITH ORDINALITY o(id, n) ORDER BY n", ids)
        return ids

    async def completed_and_expired(self, space_id: int) -> int:
        """An export that completed and expired; returns its id."""
        export_id = await self.jobs.queue(space_id)
        assert await self.jobs.complete(await self.jobs.claim())
        await self.sql.execute("SELECT cancel_export($1)", export_id)
        return export_id

    async def rows(self, *export_ids: int) -> list[asyncpg.Record]:
        """The deliveries of these exports, or all, in the order of the events."""
        query = "SELECT * FROM webhook_deliveries WHERE export_id = ANY ($1) OR $1 = '{}' ORDER BY id"
        return list(await self.sql.fetch(query, list(export_ids)))

    async def row(self, export_id: int) -> asyncpg.Record:
        """The only delivery of an export."""
        (row,) = await self.rows(export_id)
        return row

    async def endpoint(self, space_id: int) -> asyncpg.Record:
        """The row of an endpoint."""
        row = await self.sql.fetchrow("SELECT * FROM webhook_endpoints WHERE space_id = $1", space_id)
        assert row is not None
        return row

    async def summary(self, export_id: int) -> str:
        """The story of the only delivery of an export."""
        query = "SELECT summary FROM webhook_deliveries_recent WHERE export_id = $1"
        return str(await self.sql.fetchval(query, export_id))

    async def claim(self, *, lease: timedelta = LEASE, limit: int = 100, failing: int = 100) -> list[ClaimedDelivery]:
        """Claim deliveries, in the order of their ids."""
        claimed = await self.deliveries.claim(lease=lease, limit=limit, failing=failing)
        return sorted(claimed, key=lambda each: each.delivery_id)

    async def hurry(self) -> None:
        """End the pauses before all retries."""
        await self.sql.execute("UPDATE webhook_deliveries SET next_at = now() WHERE outcome IS NULL")

    @asynccontextmanager
    async def delivering(self, by: Sender | None = None, *, slots: int = 8) -> AsyncIterator[Deliverer]:
        """Run a deliverer inside the block. At its end deliveries in flight are handed back."""
        made = Deliverer(
            self.deliveries, by or sender(), DelivererOptions(slots, poll=timedelta(seconds=0.05), margin=MARGIN)
        )
        running = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            made.stop()
            made.hand_back()
            async with asyncio.timeout(20):
                await running


@asynccontextmanager
async def outbox(database_url: str) -> AsyncIterator[Outbox]:
    """The outbox of a migrated database."""
    async with job_table(database_url) as jobs:
        yield Outbox(jobs, WebhookDeliveries(jobs.database), WebhookEndpoints(jobs.database))

"""The outbox of webhooks: claims of a sender, their results, and what operators see and resend."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from service.postgres.pool import Database

_END_BATCH = 1000
"""Rows per call, so that the statement finishes well within its timeout."""


@dataclass(frozen=True, slots=True)
class ClaimedDelivery:
    """A delivery in flight. `attempt` counts from 1; `claimed_at` is the database's time of the claim.

    `secrets` sign it: the current one, and after a rotation also the previous one.
    """

    claim_id: UUID
    delivery_id: int
    webhook_id: str
    export_id: int
    space_id: int
    event: str
    payload: str
    attempt: int
    claimed_at: datetime
    url: str
    secrets: tuple[bytes, ...]
    failing: bool
    """Whether the endpoint's previous attempt failed."""


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """Why an attempt failed: the HTTP status if there was a response, and a reason in words.

    `retry_in` is None after the last attempt. `gone`: the endpoint returned 410.
    """

    status: int | None
    reason: str
    retry_in: timedelta | None
    gone: bool


class WebhookDeliveries:
    """Every method raises DatabaseUnavailable. The write may then have been committed or not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, lease: timedelta, limit: int, failing: int) -> list[ClaimedDelivery]:
        """At most `limit` due deliveries, one per endpoint, and at most `failing` for endpoints that failed last time."""
        rows = await self._database.fetch("claim_deliveries", lease, limit, failing, point="webhook_claim_sent")
        return [_claimed(row) for row in rows]

    async def record_delivered(self, claimed: ClaimedDelivery, status: int, reason: str) -> bool:
        """Record that the endpoint accepted the delivery; False if the claim is lost."""
        arguments = claimed.claim_id, claimed.delivery_id, status, reason
        return await self._database.fetch_row("record_delivered", *arguments, point="webhook_result_sent") is not None

    async def record_failed(
        self, claimed: ClaimedDelivery, failed: FailedAttempt, *, disable_after: timedelta
    ) -> bool | None:
        """Record a failed attempt. True if the endpoint is disabled now, also because it failed for `disable_after`.

        None if the claim is lost.
        """
        row = await self._database.fetch_row(
            "record_failed",
            claimed.claim_id,
            claimed.delivery_id,
            failed.status,
            failed.reason,
            failed.retry_in,
            failed.gone,
            disable_after,
            claimed.url,
            point="webhook_result_sent",
        )
        return None if row is None else bool(row["disabled"])

    async def release(self, claimed: ClaimedDelivery) -> None:
        """Give a delivery back without counting the attempt."""
        await self._database.fetch_row("release_delivery", claimed.claim_id, claimed.delivery_id)

    async def end_without_endpoint(self) -> int:
        """End waiting deliveries whose endpoint was disabled or deleted, a batch per call; returns how many."""
        return len(await self._database.fetch("end_deliveries_without_endpoint", _END_BATCH))

    async def resend(self, webhook_id: str) -> bool | None:
        """Send a delivery again. False if its endpoint is disabled or gone, None if there is no such delivery."""
        if await self._database.read_row("delivery_exists", webhook_id) is None:
            return None
        row = await self._database.fetch_row("resend_delivery", webhook_id)
        return row is not None and row["webhook_id"] is not None

    async def latest(self, *, space_id: int | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        """Rows of the view `webhook_deliveries_recent`, newest first."""
        return [dict(row) for row in await self._database.fetch("latest_deliveries", space_id, state, limit)]

    async def of_export(self, export_id: int) -> list[dict[str, Any]]:
        """The deliveries of an export, oldest first: id, event, time, summary and the time of the next attempt."""
        return [dict(row) for row in await self._database.fetch("deliveries_of_export", export_id)]


def _claimed(row: asyncpg.Record) -> ClaimedDelivery:
    return ClaimedDelivery(
        claim_id=row["claim_id"],
        delivery_id=row["id"],
        webhook_id=row["webhook_id"],
        export_id=row["export_id"],
        space_id=row["space_id"],
        event=row["event"],
        payload=row["payload"],
        attempt=row["attempts"],
        claimed_at=row["claimed_at"],
        url=row["url"],
        secrets=tuple(filter(None, (row["secret"], row["previous_secret"]))),
        failing=row["failing"],
    )

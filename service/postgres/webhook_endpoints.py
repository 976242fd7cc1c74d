"""The webhook endpoints of Spaces, as operators set them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from service.errors import SpaceNotFound, WebhookEndpointNotFound
from service.postgres.pool import Database

SECRET_OVERLAP = timedelta(days=1)
"""How long the secret before a rotation also signs."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a test message needs. `at` is the database's time."""

    url: str
    secrets: tuple[bytes, ...]
    at: datetime


class WebhookEndpoints:
    """Every method raises DatabaseUnavailable, and WebhookEndpointNotFound if the Space has no endpoint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(self, space_id: int, url: str, events: Sequence[str]) -> bytes | None:
        """Set and enable the endpoint of a Space. Returns the secret of a new one, else None. Raises SpaceNotFound."""
        row = await self._database.fetch_row("set_endpoint", space_id, url, list(events))
        if row is None:
            raise SpaceNotFound
        return bytes(row["secret"]) if row["created"] else None

    async def rotate(self, space_id: int) -> bytes:
        """Make a new secret and return it. The one before also signs for a day."""
        row = await self._database.fetch_row("rotate_secret", space_id, SECRET_OVERLAP)
        if row is None:
            raise WebhookEndpointNotFound
        return bytes(row["secret"])

    async def disable(self, space_id: int, reason: str) -> None:
        """Send nothing to the endpoint from now on."""
        if await self._database.fetch_row("disable_endpoint", space_id, reason) is None:
            raise WebhookEndpointNotFound

    async def enable(self, space_id: int) -> None:
        """Send events to the endpoint again."""
        if await self._database.fetch_row("enable_endpoint", space_id) is None:
            raise WebhookEndpointNotFound

    async def to_test(self, space_id: int) -> Endpoint:
        """The endpoint with its secrets."""
        row = await self._database.read_row("endpoint_to_test", space_id)
        if row is None:
            raise WebhookEndpointNotFound
        return Endpoint(row["url"], tuple(filter(None, (row["secret"], row["previous_secret"]))), row["at"])

    async def overview(self, space_id: int) -> dict[str, Any]:
        """The row of the view `webhook_endpoints_overview`, which has no secret."""
        row = await self._database.read_row("endpoint_overview", space_id)
        if row is None:
            raise WebhookEndpointNotFound
        return dict(row)

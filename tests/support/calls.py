"""Calls of the API on a running program that the consumer's client does not make."""

from typing import Any

import aiohttp

from tests.support.contacts import WHOLE_RANGE, Tenant

_EXPORTS = "/public-api/v1/contacts/exports"


async def cancel(address: str, space: Tenant, export_id: int) -> dict[str, Any]:
    """The answer to a cancellation, which must be accepted."""
    async with aiohttp.request("DELETE", f"{address}{_EXPORTS}/{export_id}", headers=space.headers) as answer:
        assert answer.status == 202, await answer.text()
        return dict(await answer.json())


async def create_once(address: str, space: Tenant, key: str) -> int:
    """The id of the export that this Idempotency-Key names."""
    headers = {**space.headers, "Idempotency-Key": key}
    async with aiohttp.request("POST", f"{address}{_EXPORTS}", json=WHOLE_RANGE, headers=headers) as answer:
        assert answer.status == 202, await answer.text()
        return int((await answer.json())["export_id"])

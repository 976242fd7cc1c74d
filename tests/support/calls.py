"""Calls to the API of a running program."""

from typing import Any

import aiohttp

from service.client import Export, ExportClient, Extra
from tests.support.contacts import Tenant, whole_range
from tests.support.program import Program

EXPORTS = "/public-api/v1/contacts/exports"
_UNKNOWN_KEY = "ce_0123456789abcdef_" + "x" * 43


async def call(
    program: Program, method: str, path: str, space: Tenant | None = None, **json: object
) -> tuple[int, Any, str]:
    """Send one request; return the status, the body and the Retry-After header of the response."""
    headers = space.headers if space else {"Authorization": f"Bearer {_UNKNOWN_KEY}"}
    async with aiohttp.request(method, f"{program.address}{path}", headers=headers, json=json or None) as response:
        return response.status, await response.json(), response.headers.get("Retry-After", "")


async def create(program: Program, space: Tenant, *extras: Extra) -> int:
    """Create an export of all contacts and return its id."""
    async with ExportClient(program.address, space.key) as client:
        return await client.create(whole_range(*extras))


async def create_with_tokens(program: Program, space: Tenant) -> int:
    """Create an export of all contacts with their tokens and return its id."""
    return await create(program, space, Extra.COMET_TOKENS)


async def cancel(address: str, space: Tenant, export_id: int) -> Export:
    """Cancel an export and return it."""
    async with ExportClient(address, space.key) as client:
        return await client.cancel(export_id)


async def create_once(address: str, space: Tenant, key: str) -> int:
    """Create an export with this Idempotency-Key and return its id."""
    async with ExportClient(address, space.key) as client:
        return await client.create(whole_range(), idempotency_key=key)

"""Calls to the API of a running program."""

from typing import Any

import aiohttp

from service.client import ExportClient
from tests.support.contacts import WHOLE_RANGE, Tenant
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


async def create(program: Program, space: Tenant, **body: object) -> int:
    """Create an export of all contacts and return its id."""
    async with ExportClient(program.address, space.key) as client:
        return await client.create(**(WHOLE_RANGE | body))


async def create_with_tokens(program: Program, space: Tenant) -> int:
    """Create an export of all contacts with their tokens and return its id."""
    return await create(program, space, include_comet_tokens=1)


async def cancel(address: str, space: Tenant, export_id: int) -> dict[str, Any]:
    """Cancel an export, which must be accepted, and return the body of the response."""
    async with aiohttp.request("DELETE", f"{address}{EXPORTS}/{export_id}", headers=space.headers) as response:
        assert response.status == 202, await response.text()
        return dict(await response.json())


async def create_once(address: str, space: Tenant, key: str) -> int:
    """Create an export with this Idempotency-Key and return its id."""
    headers = {**space.headers, "Idempotency-Key": key}
    async with aiohttp.request("POST", f"{address}{EXPORTS}", json=WHOLE_RANGE, headers=headers) as response:
        assert response.status == 202, await response.text()
        return int((await response.json())["export_id"])

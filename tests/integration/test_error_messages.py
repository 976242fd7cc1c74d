"""The full message of every error that a single call can cause. Runs under `python -OO` too (test_optimized_python.py)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import Starting
from service.model import Scope
from tests.support.web import BODY, EXPORTS, Site, site

FORMAT = "must be a valid date and time in the format YYYY-MM-DD HH:MM:SS."
IDEMPOTENCY = "Idempotency-Key must be sent once, with 1 to 255 printable ASCII characters, quoted or bare."
STATES = "status must be one of queued, processing, completed, failed, cancelled, expired."
CURSOR = "cursor must come from a previous response of this list, for the same Space and the same status filter."
TYPE = "The content type must be application/json in UTF-8, without compression."
JSON_HEADERS = {"Content-Type": "application/json"}


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site where a Space may create one export a minute."""
    async with site(database_url, tmp_path, create_export="1/minute") as running:
        yield running


async def message(api: Site, method: str, path: str, status: int, **options: Any) -> str:
    """The message of a call that must fail with this status."""
    response = await api.client.request(method, path, **options)
    assert response.status == status, await response.text()
    return str((await response.json())["message"])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"start_date": "x"}, f"start_date {FORMAT}"),
        ({"end_date": None}, f"end_date {FORMAT}"),
        ({"end_date": BODY["start_date"]}, "end_date must be after start_date."),
        ({"include_comet_tokens": 2}, "include_comet_tokens must be 1 or 0."),
        ({"start_date": 1, "include_all_emails": ""}, f"start_date {FORMAT} include_all_emails must be 1 or 0."),
    ],
)
async def test_invalid_fields(api: Site, changes: dict[str, Any], expected: str) -> None:
    assert await message(api, "POST", EXPORTS, 422, headers=await api.caller(), json={**BODY, **changes}) == expected


@pytest.mark.parametrize(
    ("status", "options", "expected"),
    [
        (400, {"data": b"{", "headers": JSON_HEADERS}, "The body must be a JSON object in UTF-8."),
        (413, {"data": b" " * 65_537, "headers": JSON_HEADERS}, "The body must not be larger than 64 KiB."),
        (415, {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, TYPE),
        (422, {"json": {}}, "start_date is required. end_date is required."),
        (422, {"json": BODY, "headers": {"Idempotency-Key": '"'}}, IDEMPOTENCY),
    ],
)
async def test_malformed_requests(api: Site, status: int, options: dict[str, Any], expected: str) -> None:
    headers = {**await api.caller(), **options.pop("headers", {})}
    assert await message(api, "POST", EXPORTS, status, **options, headers=headers) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=done", STATES),
        ("per_page=0", "per_page must be a whole number from 1 to 5000."),
        ("cursor=x", CURSOR),
    ],
)
async def test_invalid_query_parameters(api: Site, query: str, expected: str) -> None:
    assert await message(api, "GET", f"{EXPORTS}?{query}", 422, headers=await api.caller()) == expected


async def test_addresses_and_methods(api: Site) -> None:
    assert await message(api, "GET", "/nowhere", 404) == "Not found."
    assert await message(api, "PUT", EXPORTS, 405) == "Method not allowed."
    assert await message(api, "GET", f"{EXPORTS}/7", 404, headers=await api.caller()) == "Export not found."
    assert await message(api, "GET", "/files/x", 403) == "This download link is not valid."
    headers = {**await api.caller(), "Host": "a b"}
    assert await message(api, "GET", EXPORTS, 400, headers=headers) == "The Host header is not a valid host name."


async def test_callers(api: Site) -> None:
    assert await message(api, "GET", EXPORTS, 401) == "Missing or invalid API key."
    writer = await api.caller(Scope.EXPORTS_WRITE)
    assert await message(api, "GET", EXPORTS, 403, headers=writer) == "The API key does not have the scope exports:read."
    async with api.database.connection() as connection:
        await connection.execute("UPDATE spaces SET subscription_active = false")
    suspended = await message(api, "POST", EXPORTS, 403, json=BODY, headers=writer)
    assert suspended == "The subscription of this Space is inactive."


async def test_the_rate_limit(api: Site) -> None:
    headers = await api.caller()
    await api.create(headers)
    response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    seconds = response.headers["Retry-After"]
    expected = f"Too many requests: the rate limit of this Space is exceeded. Retry in {seconds} s."
    assert (response.status, (await response.json())["message"]) == (429, expected)


async def test_errors_of_the_service(api: Site) -> None:
    headers = await api.caller()
    api.starting = Starting()
    assert await message(api, "GET", EXPORTS, 503, headers=headers) == "The service is starting."
    api.starting = None
    async with api.database.connection() as connection:
        await connection.execute("ALTER TABLE export_jobs RENAME TO elsewhere")
    assert await message(api, "GET", EXPORTS, 500, headers=headers) == "Internal error."

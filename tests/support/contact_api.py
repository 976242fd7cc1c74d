"""Calls of the contact API, and contacts inserted with the values that a test chooses."""

from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from yarl import URL

from tests.support.web import Site

CONTACTS = "/public-api/v1/contacts"
YEAR = {"start_date": "2024-01-01 00:00:00", "end_date": "2024-12-31 23:59:59"}
START = datetime(2024, 3, 1, tzinfo=UTC)
ENVELOPE = ["data", "path", "per_page", "next_cursor", "next_page_url", "prev_cursor", "prev_page_url"]


async def fetched(api: Site, headers: dict[str, str], address: str, **query: Any) -> tuple[int, Any]:
    """Status and body of a GET."""
    url = api.client.make_url("/").join(URL(address))
    response = await api.client.session.get(url.update_query(query), headers=headers)
    return response.status, await response.json()


async def listed(api: Site, headers: dict[str, str], address: str | None = None, **query: Any) -> dict[str, Any]:
    """The body of a successful list call: of this address, or of the whole year 2024."""
    status, body = await fetched(api, headers, address or CONTACTS, **(query if address else YEAR | query))
    assert status == 200, body
    return dict(body)


async def refused(api: Site, headers: dict[str, str], query: str) -> dict[str, list[str]]:
    """The errors of an invalid list call of the year 2024."""
    response = await api.client.get(f"{CONTACTS}?{URL.build(query=YEAR).raw_query_string}&{query}", headers=headers)
    assert response.status == 422, query
    return dict((await response.json())["errors"])


async def space_of(sql: asyncpg.Connection, headers: dict[str, str]) -> int:
    """The id of the Space whose key is in these headers."""
    key_id = headers["Authorization"].split("_")[1]
    return int(await sql.fetchval("SELECT space_id FROM api_keys WHERE key_id = $1", key_id))


async def add(sql: asyncpg.Connection, space_id: int, *created: datetime, **columns: object) -> list[int]:
    """Insert contacts created at these times; returns their ids in the same order."""
    names = ", ".join(["space_id", "created_at", *columns])
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 3))
    insert = f"INSERT INTO contacts ({names}) VALUES ({values}) RETURNING id"
    return [int(await sql.fetchval(insert, space_id, each, *columns.values())) for each in created]


async def add_seconds(sql: asyncpg.Connection, space_id: int, count: int) -> list[int]:
    """Insert contacts one second apart; returns their ids, the newest first as in the list."""
    ids = await add(sql, space_id, *(START + timedelta(seconds=number) for number in range(count)))
    return ids[::-1]


def ids(page: dict[str, Any]) -> list[Any]:
    """The ids of the contacts on a page."""
    return [item["id"] for item in page["data"]]


async def all_pages(api: Site, headers: dict[str, str], **query: Any) -> list[dict[str, Any]]:
    """All pages of a list, by next_page_url."""
    pages = [await listed(api, headers, **query)]
    while url := pages[-1]["next_page_url"]:
        pages.append(await listed(api, headers, url))
    return pages

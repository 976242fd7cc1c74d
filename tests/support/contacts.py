"""Contacts in the database, and the expected lines of an export, read by plain queries."""

import base64
import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from service.access import Access
from service.model import ExportRequest, Extra, Extras, Scope
from service.postgres.access import AccessTables
from service.postgres.pool import Database

FIRST = datetime(2024, 3, 1, tzinfo=UTC)
WHOLE_RANGE = {"start_date": "2024-01-01 00:00:00", "end_date": "2024-12-31 23:59:59"}


def whole_range(*extras: Extra) -> ExportRequest:
    """Return a request for the contacts of WHOLE_RANGE."""
    return ExportRequest(datetime(2024, 1, 1), datetime(2024, 12, 31, 23, 59, 59), extras)


def chosen_extras(*, tokens: bool = False, emails: bool = False, custom_fields: bool = False) -> Extras:
    """Return the extras of an export with or without tokens, email addresses and custom fields."""
    chosen = {Extra.COMET_TOKENS: tokens, Extra.EMAILS: emails, Extra.CUSTOM_FIELDS: custom_fields}
    return Extra.among([extra for extra, asked in chosen.items() if asked])


@dataclass(frozen=True, slots=True)
class Tenant:
    """A Space made for a test, and a key with all scopes."""

    space_id: int
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an authenticated request."""
        return {"Authorization": f"Bearer {self.key}"}


async def tenant(database_url: str, *, timezone: str = "Europe/Berlin") -> Tenant:
    """Create a Space with a key."""
    async with Database(database_url, application_name="tests", size=1) as database:
        callers = Access(AccessTables(database))
        space_id = await callers.create_space("Tests", timezone)
        return Tenant(space_id, await callers.create_key(space_id, Scope))


async def add_contacts(connection: asyncpg.Connection, space_id: int, count: int, *, first: datetime = FIRST) -> None:
    """Add contacts one second apart, each with one email address and three tokens; every tenth has nine tokens."""
    await connection.execute(
        """
        WITH added AS (
          INSERT INTO contacts (space_id, created_at, email, name, phone, location)
          SELECT $1, $2::timestamptz + n * interval '1 second', format('user%s@example.org', n), 'Name ' || n,
                 CASE WHEN n % 3 > 0 THEN '+49 ' || n END, CASE WHEN n % 4 > 0 THEN 'City ' || n END
            FROM generate_series(1, $3::int) n
          RETURNING id, email, created_at
        ), addresses AS (
          INSERT INTO contact_emails (contact_id, email, last_seen_at) SELECT id, email, created_at FROM added
        )
        INSERT INTO comet_tokens (contact_id, token, last_seen_at)
        SELECT id, format('token-%s-%s', id, n), created_at + n * interval '1 minute'
          FROM added, generate_series(1, CASE WHEN id % 10 = 0 THEN 9 ELSE 3 END) n
        """,
        space_id,
        first,
        count,
    )
    await connection.execute("ANALYZE contacts, contact_emails, comet_tokens")


async def add_wide_contacts(connection: asyncpg.Connection, space_id: int, count: int) -> None:
    """Add contacts whose names have 1 MB each and compress to 750 kB."""
    for number in range(count):
        name = base64.b64encode(os.urandom(750_000)).decode()
        created_at = FIRST + timedelta(seconds=number)
        await connection.execute(
            "INSERT INTO contacts (space_id, created_at, name) VALUES ($1, $2, $3)", space_id, created_at, name
        )


async def expected_lines(
    connection: asyncpg.Connection,
    space_id: int,
    *,
    start: datetime = FIRST - timedelta(days=60),
    end: datetime = FIRST + timedelta(days=365),
    tokens: bool = False,
    emails: bool = False,
) -> list[dict[str, Any]]:
    """Return the lines that the contract requires, from one query per table."""
    contacts = await connection.fetch(
        """SELECT id, email, name, phone, location FROM contacts
            WHERE space_id = $1 AND created_at >= $2 AND created_at < $3 AND merged_into IS NULL
            ORDER BY created_at, id""",
        space_id,
        start,
        end,
    )
    seen_tokens = await _values(connection, "SELECT contact_id, token, last_seen_at FROM comet_tokens") if tokens else {}
    seen_emails = await _values(connection, "SELECT contact_id, email, last_seen_at FROM contact_emails") if emails else {}
    lines = []
    for contact in contacts:
        line = dict(contact)
        if tokens:
            line["comet_tokens"] = seen_tokens.get(contact["id"], [])[:5]
        if emails:
            line["emails"] = seen_emails.get(contact["id"], [])
        lines.append(line)
    return lines


async def _values(connection: asyncpg.Connection, query: str) -> dict[int, list[str]]:
    """Return the values of each contact, most recent first, ties ordered by value."""
    rows: Sequence[Any] = await connection.fetch(query)
    found: dict[int, list[str]] = {}
    for contact_id, value, _ in sorted(rows, key=lambda row: (-row[2].timestamp(), row[1])):
        found.setdefault(contact_id, []).append(value)
    return found


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Parse a file: every line must end in a newline and be one JSON object."""
    content = gzip.decompress(path.read_bytes())
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]

"""With a million contacts, every page costs the same: first, middle and last, with our index and with a view."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import pytest

from service.contacts.pages import ContactPosition, PageQuery, read_page
from service.model import Extra, Extras, Window
from service.postgres.contact_ids import IdType
from service.postgres.contacts import ContactReader, ContactReads
from tests.support import postgres
from tests.support.contact_api import START
from tests.support.id_types import ID_TYPES, change_ids
from tests.support.jobs import connect

SPACE, OTHER = 1, 2
CONTACTS = 1_000_000
WINDOW = Window(START, START + timedelta(days=365))
PAGE = 200
_COUNTS = """
SELECT relname AS name, pg_stat_get_xact_numscans(oid) AS scans, pg_stat_get_xact_tuples_returned(oid) AS read
  FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
"""
# Nine of ten contacts are the measured Space's; every hundredth was merged away.
_FILL = f"""
INSERT INTO contacts (id, space_id, created_at, email, merged_into, custom_fields)
SELECT n, CASE WHEN n % 10 > 0 THEN {SPACE} ELSE {OTHER} END, $1::timestamptz + n * interval '10 seconds', 'e' || n,
       CASE WHEN n % 100 = 52 THEN n - 1 END, CASE WHEN n % 2 = 0 THEN '{{"a": 1}}'::jsonb END
  FROM generate_series(1, {CONTACTS}) n
"""
_VIEW = """
ALTER TABLE contacts RENAME TO people;
ALTER TABLE people RENAME created_at TO created;
ALTER TABLE people RENAME merged_into TO duplicate_of;
CREATE VIEW contacts AS
SELECT id, space_id, created AS created_at, email, upper(name) AS name, phone, location, duplicate_of AS merged_into
  FROM people;
"""


@asynccontextmanager
async def million_contacts(server_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a database with a million contacts."""
    async with postgres.database(server_url, template) as url, connect(url) as sql:
        await sql.execute(_FILL, START)
        for table in ("contact_emails", "comet_tokens"):
            await sql.execute(f"INSERT INTO {table} SELECT n, 'e' || n FROM generate_series(1, {CONTACTS}, 10) n")
        await sql.execute("VACUUM ANALYZE contacts, contact_emails, comet_tokens")
        yield url


async def reads_of_page(
    reader: ContactReader, *, position: ContactPosition | None, extras: Extras
) -> tuple[int, dict[str, int]]:
    """Contacts on a page, and the rows and index entries that it reads, by scanned table or index."""
    async with reader.connection.transaction():
        before = await counts(reader)
        page = await read_page(PageQuery(SPACE, WINDOW, extras, position, PAGE), reader)
        return b"".join(page.blocks).count(b"\n"), await reads_since(reader, before)


async def reads_of_one(reader: ContactReader, *, contact: int) -> dict[str, int]:
    """The rows and index entries that reading one contact takes, by scanned table or index."""
    async with reader.connection.transaction():
        before = await counts(reader)
        assert await reader.find(str(contact), SPACE) is not None
        return await reads_since(reader, before)


async def counts(reader: ContactReader) -> dict[str, asyncpg.Record]:
    """Scans, and rows or entries read in this transaction, by table or index."""
    return {row["name"]: row for row in await reader.connection.fetch(_COUNTS)}


async def reads_since(reader: ContactReader, before: dict[str, asyncpg.Record]) -> dict[str, int]:
    """The rows or entries read since then by each table or index that was scanned."""
    after = await counts(reader)
    return {name: row["read"] - before[name]["read"] for name, row in after.items() if row["scans"] > before[name]["scans"]}


def position_at(number: int, *, newer: bool = False) -> ContactPosition:
    """The position after the contact with this number."""
    created_at: datetime = START + number * timedelta(seconds=10)
    return ContactPosition(created_at.isoformat(), str(IdType.BIGINT.smallest), newer=newer)


PLACES = {
    "first": None,
    "middle": position_at(CONTACTS // 2),
    "last": position_at(250),
    "back from the middle": position_at(CONTACTS // 2, newer=True),
    "back from the last": position_at(250, newer=True),
}


@pytest.mark.timeout(300)
async def test_every_page_of_a_million_contacts_reads_only_its_rows(postgres_server: str, template_database: str) -> None:
    async with million_contacts(postgres_server, template_database) as url, connect(url) as sql:
        for relations in ("our tables", "a view"):
            if relations == "a view":
                await sql.execute(_VIEW)
            async with ContactReads(url, 1, timedelta(minutes=1)) as reads:
                for extras in ((), tuple(Extra)):
                    for place, position in PLACES.items():
                        work = partial(reads_of_page, position=position, extras=extras)
                        count, read = await reads.read(extras, work)
                        assert count == PAGE, (relations, place)
                        assert "contacts_of_space" in read, (relations, place, read)
                        assert read["contacts_of_space"] <= 2 * PAGE, (relations, place, read)
                        assert not {"contacts", "people", "contact_emails", "comet_tokens"} & read.keys(), (place, read)
                for contact in (CONTACTS // 2 + 1, CONTACTS // 2 + 52):
                    read = await reads.read((), partial(reads_of_one, contact=contact))
                    assert sum(read.values()) < 50, (relations, read)


@pytest.mark.parametrize("id_type", ID_TYPES)
async def test_a_page_among_contacts_of_one_moment_reads_only_its_rows_whatever_the_type_of_ids(
    database_url: str, id_type: str
) -> None:
    async with connect(database_url) as sql, ContactReads(database_url, 1, timedelta(minutes=1)) as reads:
        await sql.execute(
            "INSERT INTO contacts (space_id, created_at) SELECT $1, $2 FROM generate_series(1, 5000)", SPACE, START
        )
        await change_ids(sql, id_type)
        await sql.execute("VACUUM ANALYZE contacts")
        collation = ' COLLATE "C"' if id_type in ("text", "character varying") else ""
        middle = await sql.fetchval(f"SELECT id::text FROM contacts ORDER BY id{collation} OFFSET 2500 LIMIT 1")
        for newer in (False, True):
            position = ContactPosition(START.isoformat(), middle, newer=newer)
            count, read = await reads.read((), partial(reads_of_page, position=position, extras=()))
            assert count == PAGE
            assert read.keys() == {"contacts_of_space"}, read
            assert read["contacts_of_space"] <= 2 * PAGE, read

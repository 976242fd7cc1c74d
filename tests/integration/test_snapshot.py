"""A snapshot reads exactly the contacts of the window, in file order, with the requested extras."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime, timedelta
from functools import partial

import asyncpg
import pytest

from service.exports.priority import FETCH_ROWS
from service.model import END_OF_TIME, Window
from service.postgres.snapshot import BATCH_ROWS, FIRST_ROWS
from sql import statement
from tests.support.contacts import expected_lines
from tests.support.snapshots import SPACE, START, WINDOW, at_once, batches_of, claim_on, lines, parsed, source, taken

OPTIONS = [(False, False), (True, False), (False, True), (True, True)]
MANY = 2 * BATCH_ROWS + 203
NASTY = [
    '},{"id":',
    'a"b',
    "a\\b",
    "\x01\x1f\x7f\n\r\t",
    "\u2028\u2029",
    "\N{PILE OF POO}",
    "\u202eevil",
    "العربية",
    "\U0010ffff",
]


async def add(sql: asyncpg.Connection, *created: datetime, space_id: int = SPACE, **columns: object) -> list[int]:
    """Insert contacts created at these times; returns their ids in the same order."""
    names = ", ".join(["space_id", "created_at", *columns])
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 3))
    insert = f"INSERT INTO contacts ({names}) VALUES ({values}) RETURNING id"
    return [int(await sql.fetchval(insert, space_id, each, *columns.values())) for each in created]


async def add_many(sql: asyncpg.Connection, count: int, *, space_id: int = SPACE) -> None:
    """Contacts whose ids are not in the order of their creation; about 13 of them share a time."""
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at, email, name)"
        " SELECT $1, $2::timestamptz + interval '1 second' * (n * 7919 % greatest($3 / 13, 1)),"
        " 'e' || n, nullif('n' || n % 5, 'n0')"
        " FROM generate_series(1, $3) n",
        space_id,
        START,
        count,
    )


async def add_extras(sql: asyncpg.Connection) -> None:
    """Up to three addresses and eight tokens per contact, in upper and lower case, many with the same last_seen_at."""
    await sql.execute(
        "INSERT INTO contact_emails"
        " SELECT id, chr(65 + (n * 37 + id)::int % 60) || n, $1::timestamptz + interval '1 hour' * (n % 2)"
        " FROM contacts, generate_series(1, (id % 4)::int) n",
        START,
    )
    await sql.execute(
        "INSERT INTO comet_tokens"
        " SELECT id, chr(65 + (n * 41 + id)::int % 60) || n, $1::timestamptz + interval '1 hour' * (n % 3)"
        " FROM contacts, generate_series(1, (id % 9)::int) n",
        START,
    )


# The rows ------------------------------------------------------------------------------------------------------------


async def test_the_lines_equal_those_of_a_plain_query_for_every_combination_of_extras(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_many(sql, MANY)
    await add_many(sql, 50, space_id=SPACE + 1)
    await sql.execute("UPDATE contacts SET merged_into = id + 1 WHERE id % 17 = 0")
    await add_extras(sql)
    for tokens, emails in OPTIONS:
        wanted = await expected_lines(sql, SPACE, start=WINDOW.start, end=WINDOW.end, tokens=tokens, emails=emails)
        assert len(wanted) > 2 * BATCH_ROWS
        assert await lines(database_url, claim_on(tokens=tokens, emails=emails)) == wanted


async def test_contacts_created_at_the_same_time_across_two_batches_appear_once(
    database_url: str, sql: asyncpg.Connection
) -> None:
    ids = await add(sql, *[START] * (BATCH_ROWS + 5))
    async with batches_of(database_url, claim_on()) as batches:
        read = [[row["id"] for row in batch] async for batch in batches]
    assert len(read) > 2
    assert [id_ for batch in read for id_ in batch] == ids


async def test_any_number_of_contacts_is_read_and_no_batch_is_empty_or_too_large(
    database_url: str, sql: asyncpg.Connection
) -> None:
    first, second = FIRST_ROWS, 2 * FIRST_ROWS
    counts = (0, 1, first - 1, first, first + 1, first + second, BATCH_ROWS, 3 * FETCH_ROWS, 3 * FETCH_ROWS + 1)
    for space_id, count in enumerate(counts, 100):
        await add_many(sql, count, space_id=space_id)
        for tokens, emails in OPTIONS:
            async with batches_of(database_url, claim_on(space_id=space_id, tokens=tokens, emails=emails)) as batches:
                sizes = [len(batch) async for batch in batches]
            assert sum(sizes) == count
            assert 0 not in sizes
            assert max(sizes, default=0) <= BATCH_ROWS


async def test_no_fetch_starts_before_it_gets_a_slot(database_url: str, sql: asyncpg.Connection) -> None:
    gate = asyncio.Semaphore(0)

    @asynccontextmanager
    async def fetch_slot() -> AsyncIterator[int]:
        await gate.acquire()
        yield FETCH_ROWS

    await add_many(sql, FIRST_ROWS + 1)
    async with source(database_url).snapshot(claim_on()) as snapshot, aclosing(snapshot.batches(fetch_slot)) as batches:
        for size in (FIRST_ROWS, 1):
            batch = asyncio.ensure_future(anext(batches))
            await asyncio.sleep(0.05)
            assert not batch.done()
            gate.release()
            assert len(await batch) == size


async def test_a_fetch_reads_at_most_the_rows_its_slot_allows(database_url: str, sql: asyncpg.Connection) -> None:
    await add_many(sql, 8 * FIRST_ROWS)
    for allowed, most in ((5, 5), (FETCH_ROWS, 4 * FIRST_ROWS)):
        fetch_slot = partial(at_once, allowed)
        async with source(database_url).snapshot(claim_on()) as snapshot, aclosing(snapshot.batches(fetch_slot)) as batches:
            sizes = []
            async for batch in batches:
                sizes.append(len(batch))
                snapshot.pace(len(batch), len(batch))
        assert max(sizes) == most
        assert sum(sizes) == 8 * FIRST_ROWS


async def test_wide_contacts_are_read_a_few_at_a_time(database_url: str, sql: asyncpg.Connection) -> None:
    await add_many(sql, 200)
    async with source(database_url).snapshot(claim_on()) as snapshot, aclosing(snapshot.batches(at_once)) as batches:
        sizes = []
        async for batch in batches:
            sizes.append(len(batch))
            snapshot.pace(len(batch), len(batch) * 10_000_000)
    assert sizes[0] == FIRST_ROWS
    assert set(sizes[3:]) == {1}
    assert sum(sizes) == 200


async def test_the_window_includes_its_start_and_excludes_its_end(database_url: str, sql: asyncpg.Connection) -> None:
    tick = timedelta(microseconds=1)
    _, first, last_second, last, _ = await add(
        sql, START - tick, START, WINDOW.end - timedelta(seconds=0.1), WINDOW.end - tick, WINDOW.end
    )
    assert [line["id"] for line in await lines(database_url, claim_on())] == [first, last_second, last]


async def test_a_window_without_an_end_includes_all_from_its_start(database_url: str, sql: asyncpg.Connection) -> None:
    ids = await add(sql, START, datetime(9999, 12, 31, 23, 59, 59, 999_998, START.tzinfo))
    assert [line["id"] for line in await lines(database_url, claim_on(window=Window(START, END_OF_TIME)))] == ids


async def test_merged_contacts_and_contacts_of_other_spaces_have_no_line(database_url: str, sql: asyncpg.Connection) -> None:
    survivor, merged = await add(sql, START, START, email="a@x.test")
    await add(sql, START, space_id=SPACE + 1)
    await sql.execute("SELECT merge_contacts($1, $2)", survivor, merged)
    assert [line["id"] for line in await lines(database_url, claim_on())] == [survivor]


# The extras ----------------------------------------------------------------------------------------------------------


async def sort_as_people_do(sql: asyncpg.Connection, table: str, column: str) -> None:
    """Give the column a collation that sorts "a" before "B", if the server has one."""
    names = await sql.fetch("SELECT collname FROM pg_collation WHERE collencoding IN (-1, 6) AND collprovider IN ('c', 'i')")
    for (name,) in names:
        with suppress(asyncpg.FeatureNotSupportedError):  # listed, but not in this build
            if await sql.fetchval(f"""SELECT 'a' < 'B' COLLATE "{name}" """):
                await sql.execute(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE text COLLATE "{name}"')
                return


async def test_at_most_five_tokens_newest_first_and_then_by_code_point(database_url: str, sql: asyncpg.Connection) -> None:
    await sort_as_people_do(sql, "comet_tokens", "token")
    (contact_id,) = await add(sql, START)
    tokens = {"old": 1, "older": 0, "b": 5, "B": 5, "é": 5, "z": 5, "new": 9}
    await sql.executemany(
        "INSERT INTO comet_tokens VALUES ($1, $2, $3)",
        [(contact_id, token, START + timedelta(days=day)) for token, day in tokens.items()],
    )
    (line,) = await lines(database_url, claim_on(tokens=True))
    assert line["comet_tokens"] == ["new", "B", "b", "z", "é"]
    assert "emails" not in line


@pytest.mark.parametrize("view", [False, True])
async def test_all_addresses_newest_first_and_then_by_code_point(
    database_url: str, sql: asyncpg.Connection, view: bool
) -> None:
    await sort_as_people_do(sql, "contact_emails", "email")
    (contact_id,) = await add(sql, START)
    emails = {f"{number}@x.test": number for number in range(10, 40)} | {"b": 99, "B": 99, "é": 99, "z": 99}
    await sql.executemany(
        "INSERT INTO contact_emails VALUES ($1, $2, $3)",
        [(contact_id, email, START + timedelta(days=day)) for email, day in emails.items()],
    )
    if view:
        await sql.execute("ALTER TABLE contact_emails RENAME TO seen; CREATE VIEW contact_emails AS SELECT * FROM seen")
    (line,) = await lines(database_url, claim_on(emails=True))
    assert line["emails"] == ["B", "b", "z", "é", *(f"{number}@x.test" for number in range(39, 9, -1))]
    assert "comet_tokens" not in line


async def test_a_contact_without_tokens_and_addresses_has_empty_lists(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, START)
    (line,) = await lines(database_url, claim_on(tokens=True, emails=True))
    assert (line["comet_tokens"], line["emails"]) == ([], [])


async def test_a_view_may_contain_duplicate_addresses_and_null_times_and_addresses(
    database_url: str, sql: asyncpg.Connection
) -> None:
    (contact_id,) = await add(sql, START)
    await sql.execute(
        "DROP TABLE contact_emails, comet_tokens;"
        "CREATE TABLE seen (contact_id bigint, value text, last_seen_at timestamptz);"
        "CREATE VIEW contact_emails AS SELECT contact_id, value AS email, last_seen_at FROM seen;"
        "CREATE VIEW comet_tokens AS SELECT contact_id, value AS token, last_seen_at FROM seen"
    )
    seen = [("twice", 1), ("once", 5), ("twice", 9), ("never", None), (None, 3), ("also never", None), ("never", None)]
    await sql.executemany(
        "INSERT INTO seen VALUES ($1, $2, $3)",
        [(contact_id, value, None if day is None else START + timedelta(days=day)) for value, day in seen],
    )
    (line,) = await lines(database_url, claim_on(tokens=True, emails=True))
    assert line["emails"] == ["twice", "once", "also never", "never"]
    assert line["comet_tokens"] == ["twice", "once", "twice", "also never", "never"]


@pytest.mark.parametrize(
    ("constraint", "unique"),
    [
        (", UNIQUE (contact_id, email)", True),
        (", PRIMARY KEY (email, contact_id)", True),
        ("", False),
        (", PRIMARY KEY (contact_id, last_seen_at)", False),
        (", UNIQUE (contact_id), UNIQUE (email)", False),
        (", UNIQUE (contact_id, email, last_seen_at)", False),
        (", UNIQUE (contact_id) INCLUDE (email)", False),
    ],
)
async def test_addresses_are_unique_only_with_a_unique_constraint_on_a_table(
    sql: asyncpg.Connection, constraint: str, unique: bool
) -> None:
    columns = "contact_id bigint, email text, last_seen_at timestamptz"
    await sql.execute(f"DROP TABLE contact_emails; CREATE TABLE contact_emails ({columns}{constraint})")
    assert await sql.fetchval(statement("emails_are_unique")) is unique


async def test_a_partial_unique_index_does_not_make_addresses_unique(sql: asyncpg.Connection) -> None:
    await sql.execute(
        "ALTER TABLE contact_emails DROP CONSTRAINT contact_emails_pkey;"
        "CREATE UNIQUE INDEX ON contact_emails (contact_id, email) WHERE last_seen_at > '2024-01-01';"
        "CREATE UNIQUE INDEX ON contact_emails (contact_id, lower(email))"
    )
    assert await sql.fetchval(statement("emails_are_unique")) is False


async def test_every_character_of_a_contact_is_in_its_line(database_url: str, sql: asyncpg.Connection) -> None:
    for text in NASTY:
        (contact_id,) = await add(sql, START, email=text, name=text, phone=text, location=text)
        await sql.execute("INSERT INTO contact_emails VALUES ($1, $2), ($1, $2 || 'x')", contact_id, text)
        await sql.execute("INSERT INTO comet_tokens VALUES ($1, $2)", contact_id, text)
    read = await lines(database_url, claim_on(tokens=True, emails=True))
    assert [[line[key] for key in ("email", "name", "phone", "location")] for line in read] == [[text] * 4 for text in NASTY]
    assert [line["comet_tokens"] for line in read] == [[text] for text in NASTY]
    assert [line["emails"] for line in read] == [[text, text + "x"] for text in NASTY]


# One instant ---------------------------------------------------------------------------------------------------------


async def test_what_happens_meanwhile_does_not_show(database_url: str, sql: asyncpg.Connection) -> None:
    await add_many(sql, 3 * BATCH_ROWS)
    await add_extras(sql)
    claim = claim_on(tokens=True, emails=True)
    wanted = await expected_lines(sql, SPACE, start=WINDOW.start, end=WINDOW.end, tokens=True, emails=True)
    async with batches_of(database_url, claim) as batches:
        read = [await anext(batches)]
        await add_many(sql, 100)
        first, second, third = [line["id"] for line in wanted[-3:]]
        await sql.execute("SELECT merge_contacts($1, $2)", first, second)
        await sql.execute("DELETE FROM contacts WHERE id = $1", third)
        await sql.execute("UPDATE contacts SET name = 'another'; DELETE FROM comet_tokens")
        read += [batch async for batch in batches]
    assert parsed(claim, read) == wanted


async def test_everything_in_a_snapshot_existed_at_its_time(database_url: str, sql: asyncpg.Connection) -> None:
    before = await sql.fetchval("SELECT clock_timestamp()")
    snapshot = await taken(database_url)
    assert before <= snapshot.taken_at <= await sql.fetchval("SELECT clock_timestamp()")


async def test_the_number_of_contacts_is_estimated(database_url: str, sql: asyncpg.Connection) -> None:
    await add_many(sql, 2000)
    await add_many(sql, 1000, space_id=SPACE + 1)
    await sql.execute("ANALYZE contacts")
    assert 1500 <= (await taken(database_url)).rows_estimated <= 2500

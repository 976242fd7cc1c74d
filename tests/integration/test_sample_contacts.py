"""Sample contacts are realistic, match the contract of the three relations, and are reproducible."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from service.postgres.sample_contacts import SampleContacts
from tests.support import postgres

_FIRST = datetime(2024, 3, 1, tzinfo=UTC)
_LAST = datetime(2024, 4, 1, tzinfo=UTC)
_COUNT = 5000
_TABLES = ("contacts", "contact_emails", "comet_tokens")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the test's database."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def _create(connection: asyncpg.Connection, *, space_id: int = 1, count: int = _COUNT, seed: int = 0) -> None:
    await SampleContacts(connection).create(
        space_id=space_id, count=count, first_created_at=_FIRST, last_created_at=_LAST, seed=seed
    )


async def _rows(connection: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    return [await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in _TABLES]


async def test_the_requested_number_of_contacts_is_in_the_range(
    connection: asyncpg.Connection,
) -> None:
    await _create(connection, space_id=7)
    where = "space_id = 7 AND created_at >= $1 AND created_at <= $2"
    assert await connection.fetchval(f"SELECT count(*) FROM contacts WHERE {where}", _FIRST, _LAST) == _COUNT


async def test_every_fiftieth_contact_is_merged_and_has_no_rows_of_its_own(
    connection: asyncpg.Connection,
) -> None:
    await _create(connection)
    assert await connection.fetchval("SELECT count(merged_into) FROM contacts") == _COUNT / 50
    assert not await connection.fetch(
        "SELECT FROM contacts m LEFT JOIN contacts s ON s.id = m.merged_into AND s.merged_into IS NULL"
        " WHERE m.merged_into IS NOT NULL AND s.id IS NULL"
    )
    for table in ("contact_emails", "comet_tokens"):
        assert not await connection.fetch(
            f"SELECT FROM {table} LEFT JOIN contacts ON id = contact_id WHERE id IS NULL OR merged_into IS NOT NULL"
        )


async def test_every_known_primary_address_is_a_row_of_the_surviving_contact(
    connection: asyncpg.Connection,
) -> None:
    await _create(connection)
    assert not await connection.fetch(
        "SELECT FROM contacts c LEFT JOIN contact_emails e"
        "    ON e.contact_id = coalesce(c.merged_into, c.id) AND e.email = c.email"
        " WHERE c.email IS NOT NULL AND e.contact_id IS NULL"
    )


@pytest.mark.parametrize(("table", "average", "most"), [("contact_emails", 1.6, 6), ("comet_tokens", 3, 12)])
async def test_the_number_of_values_per_contact_is_realistic(
    connection: asyncpg.Connection, table: str, average: float, most: int
) -> None:
    await _create(connection)
    total = await connection.fetchval(f"SELECT count(*) FROM {table}")
    assert total / _COUNT == pytest.approx(average, rel=0.1)
    largest = f"SELECT max(number) FROM (SELECT count(*) AS number FROM {table} GROUP BY contact_id) AS counted"
    assert await connection.fetchval(largest) == most


@pytest.mark.parametrize(
    "fact",
    [
        "email IS NULL",
        "name IS NULL",
        "phone IS NULL",
        "location IS NULL",
        "name ~ '[\u0590-\u05ff\u0600-\u06ff]'",  # right to left
        "name ~ '[\u4e00-\u9fff]'",
        "name ~ '\U0001f600'",  # outside the basic plane
        "name ~ '\u200d'",  # an emoji of several code points
        "name ~ ''''",
    ],
)
async def test_missing_values_and_unusual_names_occur_but_not_everywhere(connection: asyncpg.Connection, fact: str) -> None:
    await _create(connection)
    found = await connection.fetchval(f"SELECT count(*) FROM contacts WHERE {fact}")
    assert 0 < found < _COUNT / 2


async def test_all_addresses_use_reserved_domains(connection: asyncpg.Connection) -> None:
    await _create(connection)
    reserved = r"@(example\.(com|org|net)|\w+\.example)$"
    assert not await connection.fetch("SELECT FROM contact_emails WHERE email !~ $1", reserved)


async def test_last_seen_at_is_between_creation_and_the_end(
    connection: asyncpg.Connection,
) -> None:
    await _create(connection)
    for table in ("contact_emails", "comet_tokens"):
        assert not await connection.fetch(
            f"SELECT FROM {table} JOIN contacts ON id = contact_id WHERE last_seen_at < created_at OR last_seen_at > $1",
            _LAST,
        )


async def test_the_same_seed_creates_the_same_rows_and_another_creates_others(
    connection: asyncpg.Connection, postgres_server: str, template_database: str
) -> None:
    await _create(connection, count=200)
    made = await _rows(connection)
    for seed, same in [(0, True), (1, False)]:
        async with postgres.database(postgres_server, template_database) as url:
            other = await asyncpg.connect(url)
            await _create(other, count=200, seed=seed)
            rows = await _rows(other)
            await other.close()
        assert [left == right for left, right in zip(made, rows, strict=True)] == [same] * len(_TABLES)


async def test_ids_start_above_existing_ones_and_the_sequence_continues_after_them(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute("INSERT INTO contacts (id, space_id) VALUES (41, 1)")
    await _create(connection, count=10)
    await _create(connection, count=10)
    await connection.execute("INSERT INTO contacts (space_id) VALUES (1)")
    ids = [row["id"] for row in await connection.fetch("SELECT id FROM contacts ORDER BY id")]
    assert ids == list(range(41, 63))


async def test_a_count_of_zero_and_an_end_before_the_start_are_refused(connection: asyncpg.Connection) -> None:
    with pytest.raises(ValueError, match="count must be at least 1"):
        await _create(connection, count=0)
    with pytest.raises(ValueError, match="must not be before first_created_at"):
        await SampleContacts(connection).create(space_id=1, count=1, first_created_at=_LAST, last_created_at=_FIRST)

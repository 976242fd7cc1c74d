"""Relations of adopters that are stale, forbidden, broken or slow: what an export, startup and readiness say about them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import cast

import asyncpg
import pytest
import structlog

from service.errors import SchemaMismatch
from service.exports.ownership import Ownership
from service.failures import SourceData, SourceSlow, SourceUnavailable, SourceUnreadable
from service.model import END_OF_TIME, Claim, Window
from service.postgres.contact_ids import read_contact_ids
from service.postgres.contact_source import ContactSource
from service.postgres.database_identity import database_identity
from service.postgres.pool import Database
from service.process.health import Health
from service.process.startup import Startup, StartupRules
from service.storage import ObjectStore
from service.storage.directory import DirectoryStore
from sql import statement
from tests.support.jobs import connect, holding
from tests.support.roles import role
from tests.support.snapshots import FETCH_SECONDS, SPACE, START, at_once, batches_of, claim_on, lines, source, taken
from tests.support.stores import link_secret

SERVER = "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;"
RAISING = """
CREATE FUNCTION checked(name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'bad name %', name;
END $$
"""


async def view(sql: asyncpg.Connection, query: str = "SELECT * FROM people", kind: str = "VIEW") -> None:
    """Rename the table of the contacts to people, and show this query as contacts."""
    await sql.execute(f"ALTER TABLE contacts RENAME TO people; CREATE {kind} contacts AS {query}")


async def add(sql: asyncpg.Connection, count: int, name: str = "a name") -> None:
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at, name)"
        " SELECT $1, $2::timestamptz + interval '1 ms' * n, $4 FROM generate_series(1, $3) n",
        SPACE,
        START,
        count,
        name,
    )


# Up to when nothing can be missing -----------------------------------------------------------------------------------


async def horizon(sql: asyncpg.Connection) -> object:
    return await sql.fetchval(statement("source_horizon"), "tests", timedelta(0))


async def test_complete_until_is_known_for_a_view_of_views_of_partitioned_tables(sql: asyncpg.Connection) -> None:
    await sql.execute(
        "CREATE TABLE parts (LIKE contacts) PARTITION BY LIST (space_id); CREATE TABLE first PARTITION OF parts DEFAULT;"
        "CREATE VIEW all_parts AS SELECT *, lower(email) FROM parts"
    )
    await view(sql, "SELECT * FROM all_parts")
    assert await horizon(sql) is not None


@pytest.mark.parametrize(
    "query",
    [
        "CREATE MATERIALIZED VIEW stale AS SELECT * FROM people",
        """CREATE FUNCTION remote() RETURNS SETOF people LANGUAGE sql AS 'SELECT * FROM people';
           CREATE VIEW stale AS SELECT * FROM remote()""",
        f"{SERVER} CREATE FOREIGN TABLE stale (id bigint) SERVER elsewhere",
        f"""{SERVER} CREATE TABLE stale (id bigint) PARTITION BY LIST (id);
            CREATE FOREIGN TABLE part PARTITION OF stale DEFAULT SERVER elsewhere""",
    ],
    ids=["materialized view", "function", "foreign table", "foreign partition"],
)
async def test_complete_until_is_unknown_if_a_view_reads_what_may_be_stale(sql: asyncpg.Connection, query: str) -> None:
    await view(sql)
    assert await horizon(sql) is not None
    await sql.execute(query)
    await sql.execute(
        "DROP VIEW contacts; CREATE VIEW between AS SELECT * FROM stale; CREATE VIEW contacts AS TABLE between"
    )
    assert await horizon(sql) is None


async def test_complete_until_is_unknown_if_contacts_is_a_materialized_view(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await view(sql, kind="MATERIALIZED VIEW")
    assert (await taken(database_url)).complete_until is None


async def test_complete_until_is_unknown_in_a_database_with_a_subscription(
    database_url: str, sql: asyncpg.Connection
) -> None:
    async with role(database_url, "GRANT pg_read_all_stats TO {}") as reader:
        await sql.execute("CREATE SUBSCRIPTION incoming CONNECTION 'host=a' PUBLICATION p WITH (connect = false)")
        try:
            assert (await taken(reader)).complete_until is None
        finally:
            await sql.execute("ALTER SUBSCRIPTION incoming SET (slot_name = NONE); DROP SUBSCRIPTION incoming")
        assert (await taken(reader)).complete_until is not None


async def test_complete_until_is_unknown_while_a_session_is_not_tracked(database_url: str, sql: asyncpg.Connection) -> None:
    async with connect(database_url) as writer:
        await writer.execute("SET track_activities = off")
        assert await horizon(sql) is None
    await writer.close()
    while await horizon(sql) is None:
        await asyncio.sleep(0.01)


async def test_the_slack_is_subtracted(database_url: str) -> None:
    claim = claim_on(window=Window(START, END_OF_TIME))
    async with holding(database_url, "SELECT") as writer:
        contacts = ContactSource(database_url, timedelta(seconds=FETCH_SECONDS), timedelta(seconds=7))
        async with contacts.snapshot(claim) as snapshot:
            began = await writer.fetchval("SELECT now()")
    assert snapshot.complete_until == began - timedelta(seconds=8)


# Rights and row-level security ---------------------------------------------------------------------------------------


async def unreadable(url: str, claim: Claim | None = None) -> str:
    """The detail of an export that fails at once, which must be what startup and readiness say."""
    with pytest.raises(SourceUnreadable) as caught:
        await lines(url, claim or claim_on(tokens=True, emails=True))
    assert caught.value.permanent
    assert caught.value.message == "The contacts cannot be read. Please contact the operator."
    assert (caught.value.code, caught.value.detail) == ("source_unavailable", await source(url).fault())
    return caught.value.detail or ""


@pytest.mark.parametrize("relation", ["contacts", "contact_emails", "comet_tokens"])
async def test_row_level_security_is_an_error_not_an_empty_file(
    database_url: str, sql: asyncpg.Connection, relation: str
) -> None:
    await add(sql, 3)
    await sql.execute(f"ALTER TABLE {relation} ENABLE ROW LEVEL SECURITY")
    async with role(database_url, "SELECT") as reader:
        detail = await unreadable(reader)
        assert detail.startswith(f"{relation}: ")
        assert "row-level security" in detail
        with pytest.raises(SourceUnreadable):
            await source(reader).check()
        await sql.execute(f"ALTER TABLE {relation} DISABLE ROW LEVEL SECURITY")
        assert await source(reader).fault() is None
        assert len(await lines(reader, claim_on())) == 3


async def test_row_level_security_beneath_a_view_is_an_error(database_url: str, sql: asyncpg.Connection) -> None:
    await view(sql, "SELECT * FROM people", kind="VIEW")
    await sql.execute("ALTER VIEW contacts SET (security_invoker = true); ALTER TABLE people ENABLE ROW LEVEL SECURITY")
    async with role(database_url, "SELECT") as reader:
        assert "row-level security" in await unreadable(reader)


@pytest.mark.parametrize("relation", ["contacts", "contact_emails", "comet_tokens"])
async def test_a_missing_grant_is_named(database_url: str, sql: asyncpg.Connection, relation: str) -> None:
    async with role(database_url, f"REVOKE SELECT ON {relation} FROM {{}}") as reader:
        assert f"{relation}: InsufficientPrivilegeError 42501: permission denied for table {relation}" in await unreadable(
            reader
        )
        await sql.execute(f"GRANT SELECT ON {relation} TO PUBLIC")
        assert await source(reader).fault() is None


async def test_a_column_that_is_dropped_while_the_service_runs_is_named(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE contacts DROP COLUMN location")
    assert await unreadable(database_url) == "The contacts cannot be read: contacts.location is missing."


async def test_a_view_that_raises_is_named_without_the_values_in_its_message(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add(sql, 1, "a secret")
    await sql.execute(RAISING)
    await view(
        sql, "SELECT id, space_id, created_at, email, checked(name) AS name, phone, location, merged_into FROM people"
    )
    detail = await unreadable(database_url)
    assert detail == "contacts: RaiseError P0001: raised by the function checked in line 3"


async def test_a_bad_value_or_a_slow_view_is_no_fault_of_the_relations(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 1, "a secret")
    await view(
        sql, "SELECT id, space_id, created_at, email, (name::int)::text AS name, phone, location, merged_into FROM people"
    )
    assert await source(database_url).fault() is None
    with pytest.raises(SourceData) as caught:
        await lines(database_url, claim_on(tokens=True))
    expected = "contacts database, reading contacts, comet_tokens after 0 rows: InvalidTextRepresentationError 22P02"
    assert caught.value.detail == expected
    await sql.execute("DROP VIEW contacts; CREATE VIEW contacts AS SELECT *, pg_sleep(60)::text AS more FROM people")
    assert await source(database_url).fault() is None


async def test_a_subquery_with_several_rows_is_bad_data(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 2)
    await view(
        sql,
        "SELECT id, space_id, created_at, email, (SELECT name FROM people), phone, location, merged_into FROM people",
    )
    with pytest.raises(SourceData):
        await lines(database_url, claim_on())


# Rows that break the contract ----------------------------------------------------------------------------------------


async def test_children_of_the_table_of_addresses_cause_no_duplicates(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 1)
    await sql.execute(
        "CREATE TABLE older () INHERITS (contact_emails);"
        "INSERT INTO contact_emails (contact_id, email) SELECT id, 'a@b.test' FROM contacts;"
        "INSERT INTO older (contact_id, email) SELECT id, 'a@b.test' FROM contacts"
    )
    (line,) = await lines(database_url, claim_on(emails=True))
    assert line["emails"] == ["a@b.test"]


@pytest.mark.parametrize(("partitioned", "unique"), [(True, True), (False, False)])
async def test_a_unique_index_counts_on_partitioned_tables_only_if_it_covers_the_partitions(
    sql: asyncpg.Connection, partitioned: bool, unique: bool
) -> None:
    await sql.execute("DROP TABLE contact_emails")
    columns = "contact_emails (contact_id bigint, email text, last_seen_at timestamptz, UNIQUE (contact_id, email))"
    if partitioned:
        await sql.execute(
            f"CREATE TABLE {columns} PARTITION BY HASH (contact_id);"
            "CREATE TABLE part PARTITION OF contact_emails FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
        )
    else:
        await sql.execute(f"CREATE TABLE {columns}; CREATE TABLE part () INHERITS (contact_emails)")
    assert await sql.fetchval(statement("emails_are_unique")) is unique


async def bad_rows(url: str) -> str:
    with pytest.raises(SourceData) as caught:
        async with batches_of(url, claim_on()) as batches:
            _ = [batch async for batch in batches]
    return caught.value.detail or ""


async def test_a_null_id_ends_the_export_and_its_place_is_named(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 700)
    await view(
        sql,
        "SELECT CASE WHEN id = 650 THEN NULL ELSE id END AS id, space_id, created_at, email, name, phone, location,"
        " merged_into FROM people",
    )
    assert await bad_rows(database_url) == "contacts.id is null in row 650 of the file"


@pytest.mark.parametrize("row", [1, 16, 17, 650])
async def test_a_repeated_id_ends_the_export_and_its_place_is_named(
    database_url: str, sql: asyncpg.Connection, row: int
) -> None:
    await add(sql, 700)
    await view(sql, f"SELECT p.* FROM people p JOIN generate_series(1, 2) n ON n = 1 OR p.id = {row}")
    assert await bad_rows(database_url) == f"contacts.id {row} is in row {row} and in row {row + 1} of the file"


async def test_ids_of_children_of_the_contacts_table_are_checked(database_url: str, sql: asyncpg.Connection) -> None:
    assert (await read_contact_ids(sql)).unique
    await add(sql, 2)
    await sql.execute("CREATE TABLE older () INHERITS (contacts); INSERT INTO older SELECT * FROM contacts WHERE id = 1")
    assert await bad_rows(database_url) == "contacts.id 1 is in row 1 and in row 2 of the file"


async def test_contacts_without_a_finite_time_of_creation_are_in_no_file(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 1)
    await view(
        sql,
        "SELECT p.id + n AS id, space_id, t AS created_at, email, name, phone, location, merged_into FROM people p,"
        " unnest(ARRAY[created_at, NULL, 'infinity', '-infinity']) WITH ORDINALITY times(t, n)",
    )
    assert len(await lines(database_url, claim_on())) == 1


# Slow views ----------------------------------------------------------------------------------------------------------


SLOW = (
    "SELECT id, space_id, created_at, email, name, phone, location, merged_into FROM people"
    " WHERE pg_sleep(3600) IS NOT NULL ORDER BY name OFFSET 0"
)


async def slow(url: str, attempt: int) -> SourceUnavailable:
    """The error of reading the first rows, with a fetch timeout of half a second."""
    with pytest.raises(SourceUnavailable) as caught:
        async with (
            source(url, fetch_timeout=0.5).snapshot(replace(claim_on(), attempt=attempt)) as snapshot,
            aclosing(snapshot.batches(at_once)) as batches,
        ):
            await anext(batches)
    return caught.value


@pytest.mark.parametrize(("attempt", "final"), [(1, False), (2, True)])
async def test_a_slow_view_is_named_with_its_plan_and_ends_the_second_attempt(
    database_url: str, sql: asyncpg.Connection, attempt: int, final: bool
) -> None:
    await add(sql, 1)
    await view(sql, SLOW)
    failure = await slow(database_url, attempt)
    assert isinstance(failure, SourceSlow)
    assert (failure.code, failure.permanent) == ("source_unavailable", final)
    detail = failure.detail or ""
    assert "after 0 rows: the query returned no row within 0.5 s (FETCH_TIMEOUT_SECONDS); its plan: " in detail
    assert "Sort" in detail
    assert "people" in detail


# Startup and readiness -----------------------------------------------------------------------------------------------


def startup(url: str) -> Startup:
    """The startup of a service without a store, whose contacts this role reads."""
    rules = StartupRules(own_contacts=True, may_migrate=False)
    return Startup(url, source(url), cast("ObjectStore", None), cast("Ownership", None), rules)


def readiness(database: Database, url: str) -> Callable[[], Awaitable[str | None]]:
    """Return a call of the readiness check of the contacts, of a service that has started."""
    started = startup(url)
    started.finish()
    health = health_of(database, url, started)

    async def contacts() -> str | None:
        return (await health.ready()).checks["contacts"]

    return contacts


def health_of(database: Database, url: str, started: Startup) -> Health:
    """The health checks of a service with a directory that does not exist."""
    store = DirectoryStore(Path("/nowhere"), link_secret, timedelta(minutes=1))
    ownership = Ownership(store, partial(database_identity, database), fresh=timedelta(seconds=10))
    return Health(database, source(url), store, ownership, started, lambda: None)


async def test_readiness_fails_with_the_words_of_the_export_and_passes_when_it_is_mended(
    database_url: str, sql: asyncpg.Connection
) -> None:
    async with role(database_url, "SELECT") as reader, Database(database_url, application_name="tests", size=1) as database:
        assert await readiness(database, reader)() is None
        await sql.execute("ALTER TABLE comet_tokens ENABLE ROW LEVEL SECURITY")
        ready = readiness(database, reader)
        words = (await unreadable(reader)).rstrip(".")
        assert await ready() == f"{words}. `contact-exports contacts check` says how to mend it."
        await sql.execute("ALTER TABLE comet_tokens DISABLE ROW LEVEL SECURITY")
        while await ready() is not None:
            await asyncio.sleep(0.1)


async def test_startup_reports_relations_that_cannot_be_read_and_goes_on(database_url: str, sql: asyncpg.Connection) -> None:
    async with role(database_url, "REVOKE SELECT ON contacts FROM {}") as reader:
        with structlog.testing.capture_logs() as logged:
            assert await startup(reader).contacts() is True
        assert [entry["event"] for entry in logged] == ["contacts_not_readable"]
        assert "permission denied for table contacts" in logged[0]["detail"]
        assert "contact-exports contacts check" in logged[0]["mend"]


async def test_startup_ends_with_the_command_that_explains_relations_of_the_wrong_shape(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("DROP TABLE comet_tokens; ALTER TABLE contact_emails ALTER last_seen_at TYPE timestamp")
    with pytest.raises(SchemaMismatch, match=r"comet_tokens is missing.* Run: contact-exports contacts check\."):
        await startup(database_url).contacts()


async def test_startup_and_readiness_name_the_setting_of_a_database_that_cannot_be_reached_but_no_password() -> None:
    nobody = "postgresql://alice:hunter2@127.0.0.1:1/crm"
    waiting = startup(nobody)
    with structlog.testing.capture_logs() as logged:
        schema = asyncio.create_task(waiting.schema())
        while not logged:
            await asyncio.sleep(0.01)
        assert await waiting.contacts() is False
        async with Database(nobody, application_name="tests", size=1) as database:
            checks = (await health_of(database, nobody, waiting).ready()).checks
        schema.cancel()
    assert [entry["event"] for entry in logged][:2] == ["waiting_for_database", "contacts_not_reachable"]
    for entry in logged[:2]:
        assert (entry["database"], entry["setting"]) == (
            "the database crm on 127.0.0.1:1",
            "DATABASE_URL (or DATABASE_DIRECT_URL)",
        )
    assert checks["schema"] == (
        "The service is starting. It waits for the main database: check DATABASE_URL (or DATABASE_DIRECT_URL)."
    )
    assert checks["contacts"] == "The contacts are not checked before the schema is."
    assert checks["store"] is not None
    assert "hunter2" not in f"{logged} {checks}"

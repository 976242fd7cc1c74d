"""Migrations on a real server: applied once, refused on a mismatch, and never over tables of an adopter."""

import asyncio
import secrets
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.errors import DatabaseUnavailable, SchemaMismatch
from service.failures import SourceUnavailable
from service.postgres import migrate as migrate_module
from service.postgres.contact_source import ContactSource
from service.postgres.migrate import check_schema, migrate
from service.postgres.pool import Database
from service.postgres.relations import CONTRACT, check_relations
from sql import Migration, fragment, migrations, statement, statements
from tests.support.jobs import connect
from tests.support.roles import role
from tests.support.snapshots import SPACE, START, at_once, claim_on, lines, source

ALL = [f"{set_name}/{migration.name}" for set_name in ("main", "contacts") for migration in migrations(set_name)]
MAIN = [name for name in ALL if name.startswith("main/")]
NOBODY = "postgresql://nobody@127.0.0.1:1/nothing"


async def ledger(connection: asyncpg.Connection) -> list[tuple[object, ...]]:
    """The rows of the ledger."""
    return [tuple(row) for row in await connection.fetch("SELECT * FROM schema_migrations ORDER BY set_name, version")]


async def relations(connection: asyncpg.Connection) -> set[str]:
    """Names of all tables and views in the schema `public`."""
    rows = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    return {row["relname"] for row in rows}


async def newer_by(connection: asyncpg.Connection, set_name: str, versions: int) -> None:
    """Record migrations of a later version of the service."""
    for number in range(len(migrations(set_name)) + 1, len(migrations(set_name)) + 1 + versions):
        await connection.execute(
            "INSERT INTO schema_migrations (set_name, version, name, checksum) VALUES ($1, $2, $3, 'f')",
            set_name,
            number,
            f"{number:04}_later",
        )


async def test_a_new_database_gets_all_migrations_and_a_second_run_changes_nothing(empty_database_url: str) -> None:
    assert await check_schema(empty_database_url) is False
    assert await migrate(empty_database_url) == ALL
    assert await check_schema(empty_database_url) is True
    async with connect(empty_database_url) as connection:
        applied = await ledger(connection)
        assert await migrate(empty_database_url) == []
        assert await ledger(connection) == applied
        await check_relations(connection)


async def test_of_five_that_migrate_at_once_one_does(empty_database_url: str) -> None:
    done = await asyncio.gather(*(migrate(empty_database_url) for _ in range(5)))
    assert sorted(done) == [[], [], [], [], ALL]


async def test_a_role_that_may_not_create_tables_is_told_the_grant(empty_database_url: str) -> None:
    async with role(empty_database_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC") as limited:
        with pytest.raises(SchemaMismatch, match="GRANT CREATE ON SCHEMA public TO reader_") as caught:
            await migrate(limited)
        async with connect(empty_database_url) as owner:
            await owner.execute(caught.value.message.partition("run: ")[2])
        assert await migrate(limited) == ALL


async def test_a_role_that_does_not_own_the_tables_is_told_so(empty_database_url: str) -> None:
    async with connect(empty_database_url) as owner:
        await owner.execute(statement("create_schema_migrations"))
    async with role(empty_database_url, "GRANT INSERT ON schema_migrations TO {}") as limited:
        with pytest.raises(SchemaMismatch, match="may not apply the migration main/0001_service: permission denied"):
            await migrate(limited)


@pytest.mark.parametrize("path", ["", "nowhere"])
async def test_an_empty_search_path_is_named(empty_database_url: str, path: str) -> None:
    async with role(empty_database_url, f"ALTER ROLE {{}} SET search_path = '{path}'") as limited:
        for step in (check_schema, migrate):
            with pytest.raises(SchemaMismatch, match="search_path"):
                await step(limited)


async def test_limits_of_the_role_do_not_interrupt_a_migration(empty_database_url: str) -> None:
    defaults = (
        "ALTER ROLE {0} SET transaction_timeout = '500ms'; ALTER ROLE {0} SET default_transaction_isolation = serializable;"
        "ALTER ROLE {0} SET lock_timeout = '1ms';"
        "ALTER ROLE {0} SET idle_in_transaction_session_timeout = '5s'; GRANT CREATE ON SCHEMA public TO {0}"
    )
    async with role(empty_database_url, defaults) as limited:
        assert await migrate(limited) == ALL
        async with Database(limited, application_name="tests", size=1) as database, database.connection() as connection:
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
            assert await connection.fetchval("SHOW transaction_timeout") == "0"
            async with connection.transaction():
                await asyncio.sleep(0.6)
                assert await connection.fetchval("SELECT 1") == 1
        async with source(limited).snapshot(claim_on()) as snapshot:
            await asyncio.sleep(0.6)
            assert [batch async for batch in snapshot.batches(at_once)] == []


async def test_a_database_in_latin_1_is_migrated(postgres_server: str) -> None:
    name = f"contact_exports_test_{secrets.token_hex(8)}"
    url = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    async with connect(postgres_server) as owner:
        await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            assert await migrate(url) == ALL
            async with connect(url) as sql:
                await sql.execute(
                    "INSERT INTO contacts (space_id, created_at, name) VALUES ($1, $2, $3)", SPACE, START, "Zo\u00eb"
                )
            assert [line["name"] for line in await lines(url, claim_on())] == ["Zo\u00eb"]
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_migration_polls_for_the_lock_instead_of_waiting_for_it(empty_database_url: str) -> None:
    async with connect(empty_database_url) as holder, connect(empty_database_url) as watcher:
        await holder.execute("SELECT pg_advisory_lock(hashtext('contact-exports'), hashtext('migrate'))")
        migrating = asyncio.create_task(migrate(empty_database_url))
        # It polls repeatedly. Between two polls it is in no transaction that another session could have to wait for.
        questions: set[object] = set()
        while len(questions) < 3:
            rows = await watcher.fetch(
                "SELECT query_start, state, wait_event_type FROM pg_stat_activity WHERE query LIKE '%try_advisory%'"
                " AND datname = current_database() AND application_name = 'contact-exports'"
            )
            assert all(row["wait_event_type"] != "Lock" and row["state"] in ("idle", "active") for row in rows)
            questions |= {row["query_start"] for row in rows}
            assert not migrating.done()
            await asyncio.sleep(0.01)
        assert await relations(watcher) == set()
        await holder.execute("SELECT pg_advisory_unlock_all()")
        assert await migrating == ALL


async def test_a_migration_releases_the_lock(empty_database_url: str) -> None:
    async with connect(empty_database_url) as connection:
        await migrate(empty_database_url)
        assert await connection.fetchval("SELECT pg_try_advisory_lock(hashtext('contact-exports'), hashtext('migrate'))")


async def test_a_failed_migration_is_rolled_back_completely_and_can_be_repeated(empty_database_url: str) -> None:
    async with connect(empty_database_url) as connection:
        await connection.execute("CREATE TABLE export_attempts ()")
        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate(empty_database_url)
        assert await relations(connection) == {"schema_migrations", "export_attempts"}
        assert await ledger(connection) == []
        assert await check_schema(empty_database_url) is False
        await connection.execute("DROP TABLE export_attempts")
        assert await migrate(empty_database_url) == ALL


@pytest.mark.parametrize("set_name", ["main", "contacts"])
async def test_a_file_that_was_edited_after_it_was_applied_is_refused(database_url: str, set_name: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute(
            "UPDATE schema_migrations SET checksum = 'other' WHERE set_name = $1 AND version = 1", set_name
        )
    name = migrations(set_name)[0].name
    with pytest.raises(SchemaMismatch, match=f"{set_name}/{name} was edited"):
        await migrate(database_url)
    with pytest.raises(SchemaMismatch, match=f"{set_name}/{name} was edited"):
        await check_schema(database_url)


@pytest.mark.parametrize("set_name", ["main", "contacts"])
async def test_a_database_newer_by_one_can_be_used_but_not_migrated(database_url: str, set_name: str) -> None:
    async with connect(database_url) as connection:
        await newer_by(connection, set_name, 1)
    assert await check_schema(database_url) is True
    with pytest.raises(SchemaMismatch, match="newer"):
        await migrate(database_url)


@pytest.mark.parametrize("set_name", ["main", "contacts"])
async def test_a_database_newer_by_two_is_refused(database_url: str, set_name: str) -> None:
    async with connect(database_url) as connection:
        await newer_by(connection, set_name, 2)
    with pytest.raises(SchemaMismatch, match=f"{set_name} is at version {len(migrations(set_name)) + 2}"):
        await check_schema(database_url)
    with pytest.raises(SchemaMismatch, match="newer"):
        await migrate(database_url)


async def test_a_set_of_a_later_version_makes_the_database_newer(database_url: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute(
            "INSERT INTO schema_migrations (set_name, version, name, checksum) VALUES ('later', 1, '0001_later', 'f')"
        )
    assert await check_schema(database_url) is True
    with pytest.raises(SchemaMismatch, match="newer"):
        await migrate(database_url)


async def test_a_missing_migration_is_detected(database_url: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute("DELETE FROM schema_migrations WHERE set_name = 'main'")
    assert await check_schema(database_url) is False


async def test_an_unreachable_database_is_unavailable() -> None:
    with pytest.raises(DatabaseUnavailable):
        await migrate(NOBODY)
    with pytest.raises(DatabaseUnavailable):
        await check_schema(NOBODY)


async def test_the_server_can_prepare_every_statement(database_url: str) -> None:
    async with connect(database_url) as connection:
        for name, text in statements().items():
            for hit in ("exact_hit", "merged_hit"):  # one of them replaces the marker, where there is one
                whole = text.replace("/* hit */", fragment(hit)).replace("COLUMN", "id").replace("RELATION", "contacts")
                try:
                    await connection.prepare(whole)
                except asyncpg.PostgresError as error:
                    pytest.fail(f"{name}: {error}")


@pytest.fixture
def _a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds a migration to the set `contacts`."""
    later = Migration(len(migrations("contacts")) + 1, "9999_later", "ALTER TABLE contacts ADD COLUMN later text;")

    def with_later(set_name: str) -> tuple[Migration, ...]:
        return (*migrations(set_name), later) if set_name == "contacts" else migrations(set_name)

    monkeypatch.setattr(migrate_module, "migrations", with_later)


@pytest.mark.usefixtures("_a_later_version")
async def test_a_later_contacts_migration_is_applied_to_our_own_tables(database_url: str) -> None:
    assert await check_schema(database_url) is False
    assert await migrate(database_url) == ["contacts/9999_later"]
    assert await check_schema(database_url) is True


@pytest.mark.usefixtures("_a_later_version")
async def test_a_later_contacts_migration_is_not_applied_to_relations_of_an_adopter(empty_database_url: str) -> None:
    async with connect(empty_database_url) as connection:
        await connection.execute(_VIEWS)
    assert await migrate(empty_database_url) == MAIN
    assert await check_schema(empty_database_url) is True


# Contacts of an adopter ----------------------------------------------------------------------------------------------

_VIEWS = """
CREATE SCHEMA crm;
CREATE TABLE crm.people (id integer PRIMARY KEY, tenant integer, added timestamptz, mail varchar(80), name varchar,
                         merged integer);
CREATE TABLE crm.seen (person integer, kind text, value varchar, at timestamptz);
CREATE VIEW contacts AS SELECT id, tenant AS space_id, added AS created_at, mail AS email, name, NULL::text AS phone,
  NULL::text AS location, merged AS merged_into, 'more' AS of_their_own FROM crm.people;
CREATE VIEW contact_emails AS
  SELECT person AS contact_id, value AS email, at AS last_seen_at FROM crm.seen WHERE kind = 'mail';
CREATE MATERIALIZED VIEW comet_tokens AS
  SELECT person AS contact_id, value AS token, at AS last_seen_at FROM crm.seen WHERE kind = 'token';
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("contacts", "VIEW {} AS SELECT 1 AS a"),
        ("contact_emails", "MATERIALIZED VIEW {} AS SELECT 1 AS a"),
        ("comet_tokens", "TABLE {} (a text)"),
    ],
)
async def test_if_one_relation_exists_none_is_created_and_every_mismatch_is_listed(
    empty_database_url: str, name: str, kind: str
) -> None:
    async with connect(empty_database_url) as connection:
        await connection.execute("CREATE " + kind.format(name))
        assert await migrate(empty_database_url) == MAIN
        assert await check_schema(empty_database_url) is True
        with pytest.raises(SchemaMismatch) as caught:
            await check_relations(connection)
        missing = [f"{other} is missing" for other in CONTRACT if other != name]
        assert all(fault in caught.value.message for fault in missing)
        assert all(f"{name}.{column} is missing" in caught.value.message for column in CONTRACT[name])


async def test_views_instead_of_the_tables_are_accepted(empty_database_url: str) -> None:
    async with connect(empty_database_url) as connection:
        await connection.execute(_VIEWS)
        assert await migrate(empty_database_url) == MAIN
        await check_relations(connection)
        await ContactSource(empty_database_url, fetch_timeout=timedelta(seconds=5)).check()
        assert await migrate(empty_database_url) == []


async def test_no_contact_tables_are_created_if_the_contacts_are_in_another_database(empty_database_url: str) -> None:
    assert await migrate(empty_database_url, own_contacts=False) == MAIN
    assert await check_schema(empty_database_url, own_contacts=False) is True
    assert await check_schema(empty_database_url) is False
    async with connect(empty_database_url) as connection:
        assert await relations(connection) & CONTRACT.keys() == set()


async def test_one_error_lists_all_columns_that_do_not_match(database_url: str) -> None:
    async with connect(database_url) as connection:
        await connection.execute(
            "ALTER TABLE contacts ALTER COLUMN phone TYPE integer USING 1;"
            "DROP INDEX contacts_of_space; ALTER TABLE contacts ALTER COLUMN created_at TYPE timestamp;"
            "ALTER TABLE contacts DROP COLUMN location, DROP COLUMN custom_fields, ADD COLUMN custom_fields text;"
            "ALTER TABLE comet_tokens RENAME token TO value; DROP TABLE contact_emails"
        )
        with pytest.raises(SchemaMismatch) as caught:
            await check_relations(connection)
    with pytest.raises(SchemaMismatch) as also_caught:
        await ContactSource(database_url, fetch_timeout=timedelta(seconds=5)).check()
    assert caught.value.message == also_caught.value.message
    said = caught.value.message.removeprefix("The contacts cannot be read: ").removesuffix(".").split("; ")
    assert {fault for fault in said if "cast" not in fault} == {
        "contacts.custom_fields is text instead of jsonb",
        "contacts.created_at is timestamp without time zone instead of timestamp with time zone",
        "contacts.location is missing",
        "contacts.phone is integer instead of text",
        "contact_emails is missing",
        "comet_tokens.token is missing",
    }


async def test_relations_are_looked_up_on_the_search_path(empty_database_url: str) -> None:
    async with connect(empty_database_url) as connection:
        await connection.execute("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.contacts (a text)")
    assert await migrate(empty_database_url) == ALL


async def test_an_unreachable_contacts_database_is_not_reported_as_missing_relations() -> None:
    with pytest.raises(SourceUnavailable):
        await ContactSource(NOBODY, fetch_timeout=timedelta(seconds=5)).check()

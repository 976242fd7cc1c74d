"""The check of an adopter's contacts: each planted fault is found with its mend, bounded in time, and nothing else is."""

import asyncio
import json
import re
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from service.database_urls import place_of
from service.embedded.postgres import EmbeddedPostgres
from service.model import Extra
from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.check_speed import UNKNOWN
from service.postgres.contact_check import check_contacts
from service.postgres.findings import Finding, Level, Report
from service.postgres.migrate import migrate
from service.postgres.snapshot import export_query
from sql import statement
from tests.support.adopted import PASSWORD, Adopted, adopted, as_role, page_block
from tests.support.contacts import add_contacts, tenant
from tests.support.jobs import connect, holding
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres_proxy import Mode, postgres_proxy
from tests.support.roles import role
from tests.support.shell import contact_exports
from tests.support.snapshots import claim_on

PEOPLE = 400
INDEXES = "CREATE INDEX CONCURRENTLY ON crm.people (tenant"
STORED_SPACE = "ALTER TABLE crm.people"


@pytest.fixture
async def crm(postgres_server: str) -> AsyncIterator[Adopted]:
    """The foreign schema of the documentation in its fastest form: with indexes and a stored space_id."""
    async with adopted(postgres_server, PEOPLE) as made:
        await made.run(page_block(INDEXES))
        await made.run(page_block(STORED_SPACE))
        await made.owner.execute("ANALYZE crm.people")
        yield made


async def check(url: str, *, seconds: float = 20, space_id: int | None = None) -> Report:
    """What the check finds in any database."""
    return await check_contacts(
        url, space_id=space_id, each=timedelta(seconds=seconds), total=timedelta(seconds=10 * seconds)
    )


def only_contacts(url: str) -> dict[str, str]:
    """Settings of the command with an address of the contacts and none of the main database."""
    return {"CONTACTS_DATABASE_URL": url, "STORAGE_URL": "file:///nowhere"}


def only(report: Report) -> Finding:
    """The only finding."""
    (finding,) = report.findings
    return finding


async def test_nothing_is_found_in_the_schema_of_the_documentation(crm: Adopted) -> None:
    report = await crm.check(space_id=None)
    assert report.findings == []
    assert report.exit_code == 0
    assert (report.space_id, [speed.rows for speed in report.speeds]) == (1, [160, 160])
    assert report.complete_until is not None
    assert report.plan is not None
    assert report.plan.startswith("Index Scan on people")
    assert (report.relations[0].found_as, report.relations[0].kind) == ("contact_exports.contacts", "view")


async def test_nothing_is_found_in_the_tables_of_the_service(database_url: str, sql: asyncpg.Connection) -> None:
    await add_contacts(sql, 7, 300)
    report = await check(database_url)
    assert (report.findings, report.space_id, report.exit_code) == ([], 7, 0)
    (first, *_) = report.relations[0].columns
    assert (first.name, first.type, first.nullable) == ("id", "bigint", False)


# Twelve faults -------------------------------------------------------------------------------------------------------

VIEW = "CREATE OR REPLACE VIEW contact_exports.{} AS "
SOMEBODY = """(SELECT min(person_key::text)::uuid FROM crm.people
  WHERE tenant = 'acme' AND deleted_at IS NULL AND duplicate_of IS NULL)"""
CONTACTS = """SELECT p.person_key AS id, p.space_id, p.created AT TIME ZONE 'UTC' AS created_at,
       p.addresses->0->>'mail' AS email, p.full_name AS name, p.mobile AS phone,
       p.city AS location, p.duplicate_of AS merged_into
  FROM crm.people p WHERE p.deleted_at IS NULL"""
PLANTED = {
    "repeated ids": (
        f"{VIEW.format('contacts')}{CONTACTS} UNION ALL {CONTACTS} AND p.person_key = {SOMEBODY}",
        (Level.FAULT, "repeated", "contacts.id", "1 ids are in several rows"),
        "GROUP BY id HAVING count(*) > 1",
    ),
    "null ids": (
        VIEW.format("contacts") + CONTACTS.replace("p.person_key AS", f"nullif(p.person_key, {SOMEBODY}) AS"),
        (Level.FAULT, "null_ids", "contacts.id", "contacts.id is null in 1 rows"),
        "IS NOT NULL",
    ),
    "null created_at": (
        (
            "ALTER TABLE crm.people ALTER created DROP NOT NULL;"
            f"UPDATE crm.people SET created = NULL WHERE person_key = {SOMEBODY}"
        ),
        (Level.FAULT, "null_times", "contacts.created_at", "contacts.created_at is null in 1 rows"),
        "coalesce(column",
    ),
    "infinite created_at": (
        f"UPDATE crm.people SET created = '-infinity' WHERE person_key = {SOMEBODY}",
        (Level.FAULT, "infinite_times", "contacts.created_at", "contacts.created_at is infinite in 1 rows"),
        "isfinite(column)",
    ),
    "missing grant": (
        "REVOKE SELECT ON contact_exports.comet_tokens FROM {role}",
        (Level.FAULT, "no_right", "comet_tokens", "The role {role} has no right to read comet_tokens."),
        "GRANT SELECT ON contact_exports.comet_tokens TO {role};",
    ),
    "missing grant of a column": (
        (
            "REVOKE SELECT ON contact_exports.comet_tokens FROM {role};"
            "GRANT SELECT (contact_id, token) ON contact_exports.comet_tokens TO {role}"
        ),
        (Level.FAULT, "no_right", "comet_tokens", "The role {role} may not read all columns of comet_tokens."),
        "GRANT SELECT ON contact_exports.comet_tokens TO {role};",
    ),
    "missing grant of the owner of the view": (
        (
            "GRANT USAGE ON SCHEMA crm TO {role}; GRANT SELECT ON crm.people TO {role};"
            "GRANT CREATE ON SCHEMA contact_exports TO {role}; ALTER VIEW contact_exports.comet_tokens OWNER TO {role}"
        ),
        (
            Level.FAULT,
            "no_right",
            "comet_tokens",
            "comet_tokens reads the table sightings, which the owner of the view may not read.",
        ),
        "GRANT SELECT ON crm.sightings TO the owner of the view contact_exports.comet_tokens;",
    ),
    "row-level security": (
        (
            "ALTER TABLE crm.people ENABLE ROW LEVEL SECURITY;"
            "ALTER VIEW contact_exports.contacts SET (security_invoker = on);"
            "GRANT USAGE ON SCHEMA crm TO {role}; GRANT SELECT ON crm.people TO {role}"
        ),
        (Level.FAULT, "row_security", "contacts", "Row-level security of the table people would hide contacts"),
        "ALTER ROLE {role} BYPASSRLS;",
    ),
    "missing index of contacts": (
        "DROP INDEX crm.people_of_space",
        (Level.WARNING, "index_missing", "contacts", "No index of crm.people finds the contacts of a Space"),
        (
            "CREATE INDEX CONCURRENTLY ON crm.people (space_id, (created AT TIME ZONE 'UTC'::text), person_key)"
            " WHERE deleted_at IS NULL AND space_id IS NOT NULL AND duplicate_of IS NULL;"
        ),
    ),
    "index of contacts without their order": (
        "DROP INDEX crm.people_of_space, crm.people_tenant_timezone_person_key_idx; CREATE INDEX ON crm.people (space_id)",
        (Level.WARNING, "index_missing", "contacts", "No index of crm.people finds the contacts of a Space"),
        (
            "CREATE INDEX CONCURRENTLY ON crm.people (space_id, (created AT TIME ZONE 'UTC'::text), person_key)"
            " WHERE deleted_at IS NULL AND space_id IS NOT NULL AND duplicate_of IS NULL;"
        ),
    ),
    "missing index of tokens": (
        "DROP INDEX crm.sightings_person_key_idx",
        (Level.WARNING, "index_missing", "comet_tokens", "No index of crm.sightings finds the rows of a contact"),
        "CREATE INDEX CONCURRENTLY ON crm.sightings (person_key);",
    ),
    "uncastable value": (
        f"""UPDATE crm.people SET addresses = '[{{"mail": "a@example.org", "seen": "last week"}}]'
             WHERE person_key = {SOMEBODY}""",
        (Level.FAULT, "raises", "contact_emails.last_seen_at", "contact_emails.last_seen_at raises an error in row "),
        "CASE WHEN pg_input_is_valid(value, 'type') THEN value::type END",
    ),
    "alias without a survivor": (
        f"UPDATE crm.people SET duplicate_of = '00000000-0000-0000-0000-000000000001' WHERE person_key = {SOMEBODY}",
        (Level.FAULT, "without", "contacts.merged_into", "1 merged contacts have a survivor that does not exist"),
        "set merged_into to the survivor",
    ),
    "rows of a merged contact": (
        VIEW.format("comet_tokens")
        + "SELECT person_key AS contact_id, cookie AS token, seen AT TIME ZONE 'UTC' AS last_seen_at FROM crm.sightings",
        (Level.FAULT, "merged", "comet_tokens.contact_id", "120 rows of comet_tokens have the id of a merged contact"),
        "coalesce(merged_into, id)",
    ),
    "time without zone": (
        "DROP VIEW contact_exports.contacts; CREATE VIEW contact_exports.contacts AS "
        + CONTACTS.replace(" AT TIME ZONE 'UTC'", "")
        + "; GRANT SELECT ON contact_exports.contacts TO {role}",
        (Level.FAULT, "type", "contacts.created_at", "contacts.created_at is timestamp without time zone"),
        "AT TIME ZONE 'UTC'",
    ),
    "relation outside of the search_path": (
        "ALTER VIEW contact_exports.contact_emails SET SCHEMA public",
        (
            Level.FAULT,
            "missing",
            "contact_emails",
            "contact_emails is in the schema public, which is not in",
        ),
        "ALTER ROLE {role} SET search_path = public;",
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
async def test_a_planted_fault_is_found_with_its_mend(crm: Adopted, planted: str) -> None:
    statements, (level, code, place, text), mend = PLANTED[planted]
    await crm.owner.execute(statements.replace("{role}", crm.role))
    report = await crm.check()
    found = [each for each in report.findings if (each.code, each.place) == (code, place)]
    assert [each.level for each in found] == [level], report.findings
    assert text.replace("{role}", crm.role) in found[0].text
    assert mend.replace("{role}", crm.role) in found[0].mend
    assert report.exit_code == max(each.level for each in report.findings)


async def test_a_time_in_the_future_is_a_warning_that_names_the_zone(database_url: str, sql: asyncpg.Connection) -> None:
    await add_contacts(sql, 7, 3)
    await sql.execute("UPDATE contacts SET created_at = now() + interval '1 hour' WHERE name = 'Name 2'")
    finding = only(await check(database_url))
    assert (finding.level, finding.code, finding.place) == (Level.WARNING, "future_times", "contacts.created_at")
    assert "in 1 rows" in finding.text
    assert "AT TIME ZONE 'Europe/Berlin'" in finding.mend


@pytest.mark.parametrize(
    ("view", "column", "now"),
    [
        ("contacts", "created_at", "p.created::timestamptz"),
        ("contact_emails", "last_seen_at", "(a->>'seen')::timestamptz"),
        ("comet_tokens", "last_seen_at", "max(t.seen)::timestamptz"),
        ("comet_tokens", "last_seen_at", "max(t.seen::timestamptz)"),
    ],
)
async def test_a_cast_that_depends_on_the_session_is_a_warning_whatever_indexes_exist(
    crm: Adopted, view: str, column: str, now: str
) -> None:
    name = f"contact_exports.{view}"
    text = await crm.owner.fetchval("SELECT pg_get_viewdef($1::text::regclass)", name)
    await crm.owner.execute(
        f"CREATE VIEW contact_exports.before AS {text}"
        f"; DROP VIEW {name}; CREATE VIEW {name} AS {page_view(view, column, now)}"
        f"; GRANT SELECT ON {name} TO {crm.role}; CREATE INDEX ON crm.people (space_id)"
    )
    found = [each for each in (await crm.check()).findings if each.code == "session_time"]
    assert [(each.level, each.place) for each in found] == [(Level.WARNING, f"{view}.{column}")]
    assert "AT TIME ZONE 'Europe/Berlin'" in found[0].mend


def page_view(view: str, column: str, now: str) -> str:
    """The query of a view of the page, with another expression for a column."""
    (text,) = re.findall(rf"CREATE VIEW contact_exports.{view} AS\n(.*?);", page_block("CREATE VIEW"), re.DOTALL)
    changed, count = re.subn(rf"[^,]+ AT TIME ZONE 'UTC' AS {column}", f" {now} AS {column}", text)
    assert count == 1
    return str(changed)


async def test_rows_of_tenants_without_a_space_are_no_reason_to_delete_anything(crm: Adopted) -> None:
    await crm.owner.execute(f"{VIEW.format('contacts')}{CONTACTS} AND p.tenant = 'acme'")
    found = [each for each in (await crm.check()).findings if each.code == "without"]
    assert {each.place for each in found} == {"contact_emails.contact_id", "comet_tokens.contact_id"}
    for each in found:
        assert each.mend.startswith("Nothing, while tenants have no Space")
        assert "elete rows" not in each.mend


# Spaces and databases -------------------------------------------------------------------------------------------------


async def test_a_space_without_contacts_is_a_warning(database_url: str, sql: asyncpg.Connection) -> None:
    await add_contacts(sql, 7, 3)
    finding = only(await check(database_url, space_id=8))
    assert (finding.level, finding.code) == (Level.WARNING, "space_without_contacts")
    assert "space_id 8" in finding.text
    assert "Map a tenant" in finding.mend


async def test_empty_tables_are_a_warning_that_names_their_database_and_the_setting_for_another_one(
    database_url: str,
) -> None:
    finding = only(await check(database_url))
    assert finding.code == "no_contacts"
    assert f"no rows in the database {urlsplit(database_url).path[1:]} on " in finding.text
    ended = await contact_exports("contacts", "check", DATABASE_URL=database_url)
    assert "set CONTACTS_DATABASE_URL" in ended.output
    assert ended.output.endswith("\n0 faults, 1 warning\n")


async def test_a_space_that_does_not_exist_is_a_warning(
    database_url: str, empty_database_url: str, sql: asyncpg.Connection
) -> None:
    space = await tenant(database_url)
    for space_id in (space.space_id, 99):
        await add_contacts(sql, space_id, 3)
    settings = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": database_url}
    assert (await contact_exports("contacts", "check", "--space", str(space.space_id), **settings)).code == 0
    unknown = await contact_exports("contacts", "check", "--space", "99", **settings)
    assert (unknown.code, unknown.errors) == (1, "")
    assert "There is no Space 99" in unknown.output
    assert "contact-exports spaces create" in unknown.output
    early = await contact_exports("contacts", "check", **{**settings, "DATABASE_URL": empty_database_url})
    assert "Mend: contact-exports migrate" in early.output
    absent = await contact_exports(
        "contacts", "check", **{**settings, "DATABASE_URL": "postgresql://x:secret@127.0.0.1:1/x"}
    )
    assert "the main database cannot be read" in absent.output
    assert "secret" not in absent.output + absent.errors


async def test_the_report_names_the_database_that_was_read_its_role_and_the_setting_but_no_password(
    crm: Adopted, database_url: str
) -> None:
    place = f"Read {place_of(crm.url)} as the role {crm.role}"
    assert place.startswith(f"Read the database {crm.database} on ")
    settings = {"CONTACTS_DATABASE_URL": crm.url, "DATABASE_URL": database_url}
    ended = await contact_exports("contacts", "check", **settings)
    assert ended.output.startswith(f"{place} (CONTACTS_DATABASE_URL).\n")
    ended = await contact_exports("contacts", "check", DATABASE_URL=crm.url)
    assert ended.output.startswith(f"{place} (DATABASE_URL).\n")
    ended = await contact_exports("contacts", "check", DATABASE_URL=database_url, DATABASE_DIRECT_URL=crm.url)
    assert ended.output.startswith(f"{place} (DATABASE_DIRECT_URL).\n")
    assert quote(PASSWORD) not in ended.output
    refused = await contact_exports("contacts", "check", **only_contacts("postgresql://a:secret@127.0.0.1:1/crm"))
    assert "the database crm on 127.0.0.1:1 cannot be reached" in refused.output
    assert "secret" not in refused.output


@pytest.mark.long
async def test_tables_that_were_never_analyzed_are_named_with_the_statement(postgres_server: str) -> None:
    async with adopted(postgres_server, 0) as crm:
        await crm.fill(20_000, analyze=False)
        found = {each.place: each.mend for each in (await crm.check()).findings if each.code == "not_analyzed"}
        assert found == {name: f"ANALYZE {name};" for name in ("crm.people", "crm.sightings")}
        for mend in found.values():
            await crm.owner.execute(mend)
        assert "not_analyzed" not in {each.code for each in (await crm.check()).findings}


@pytest.mark.long
async def test_an_index_on_an_expression_without_statistics_is_named_with_the_statement(postgres_server: str) -> None:
    async with adopted(postgres_server, 5_000) as crm:
        (missing,) = [each for each in (await crm.check()).findings if "COALESCE" in each.mend]
        assert "Then run ANALYZE crm.people, because" in missing.text
        assert "not_analyzed" not in {each.code for each in (await crm.check()).findings}
        await crm.run(page_block(INDEXES).partition("ANALYZE")[0])
        found = [each for each in (await crm.check()).findings if each.code == "not_analyzed"]
        assert [(each.level, each.place, each.mend) for each in found] == [
            (Level.WARNING, "crm.people", "ANALYZE crm.people;")
        ]
        await crm.owner.execute(found[0].mend)
        assert "not_analyzed" not in {each.code for each in (await crm.check()).findings}


# Speed ---------------------------------------------------------------------------------------------------------------


def rows_read(node: dict[str, Any]) -> float:
    """The rows that the scans of a plan read, with those that a filter removed."""
    own = 0.0
    if "Relation Name" in node:
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(map(rows_read, node.get("Plans", ())))


async def rows_read_by_an_export(crm: Adopted) -> float:
    """The rows that the query of an export with tokens and addresses reads."""
    async with connect(crm.url) as reader:
        query, _ = await export_query(reader, (Extra.COMET_TOKENS, Extra.EMAILS))
        window = claim_on().window
        plan = await reader.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", 1, window.start, window.end)
    return rows_read(json.loads(plan)[0]["Plan"])


async def test_the_printed_indexes_are_those_of_the_page_and_an_export_reads_a_tenth_of_the_rows_or_less(
    postgres_server: str,
) -> None:
    async with adopted(postgres_server, 1000) as crm:
        printed = [each.mend for each in (await crm.check()).findings if each.code == "index_missing"]
        assert "\n".join(printed) + "\n" == page_block(INDEXES)
        before = await rows_read_by_an_export(crm)
        for each in printed:
            await crm.owner.execute(each)
        await crm.owner.execute("ANALYZE crm.people, crm.sightings")
        assert await rows_read_by_an_export(crm) < before / 10
        # Only the sort remains, which needs a column.
        assert [(each.code, each.place) for each in (await crm.check()).findings] == [("sorted", "contacts")]
        await crm.run(page_block(STORED_SPACE))
        await crm.owner.execute("ANALYZE crm.people")
        assert (await crm.check()).findings == []


VIEWS_WITHOUT_AN_INDEX = {
    "a join with USING": (
        (
            f"{VIEW.format('comet_tokens')}SELECT coalesce(duplicate_of, person_key) AS contact_id, cookie AS token,"
            " max(seen) AT TIME ZONE 'UTC' AS last_seen_at FROM crm.sightings JOIN crm.people USING (person_key)"
            " WHERE deleted_at IS NULL GROUP BY 1, 2"
        ),
        ("no_index_possible", "comet_tokens", "Compute contact_id from columns of one table"),
    ),
    "a Space that is looked up for each row": (
        VIEW.format("contacts")
        + CONTACTS.replace(
            "p.space_id", "(SELECT s.space_id FROM contact_exports.tenant_spaces s WHERE s.tenant = p.tenant) AS space_id"
        ),
        ("no_index_possible", "contacts", "Store space_id in the table"),
    ),
    "a cast that depends on the session": (
        VIEW.format("contacts") + CONTACTS.replace("p.created AT TIME ZONE 'UTC'", "p.created::timestamptz"),
        ("index_missing", "contacts", "Write column AT TIME ZONE 'UTC' in the view instead of a cast"),
    ),
}


@pytest.mark.parametrize("planted", VIEWS_WITHOUT_AN_INDEX)
async def test_a_view_that_prevents_an_index_is_explained(crm: Adopted, planted: str) -> None:
    statement, (code, place, mend) = VIEWS_WITHOUT_AN_INDEX[planted]
    await crm.owner.execute(statement)
    (finding,) = [each for each in (await crm.check()).findings if (each.code, each.place) == (code, place)]
    assert mend in finding.mend
    assert "CREATE INDEX" not in finding.mend


async def test_an_index_of_text_ids_has_the_order_of_bytes_and_every_name_is_quoted(
    empty_database_url: str,
) -> None:
    async with connect(empty_database_url) as sql:
        await sql.execute(
            """CREATE TABLE "User" ("Key" text PRIMARY KEY, space bigint, "order" timestamptz, gone boolean);
               INSERT INTO "User" SELECT 'k' || n, n % 5, now() - n * interval '1 min', false FROM generate_series(1, 900) n;
               CREATE VIEW contacts AS SELECT "Key" AS id, space AS space_id, "order" AS created_at, NULL::text AS email,
                 NULL::text AS name, NULL::text AS phone, NULL::text AS location, NULL::text AS merged_into FROM "User"
                 WHERE NOT gone;
               CREATE VIEW contact_emails AS SELECT NULL::text AS contact_id, NULL::text AS email,
                 NULL::timestamptz AS last_seen_at WHERE false;
               CREATE VIEW comet_tokens AS SELECT NULL::text AS contact_id, NULL::text AS token,
                 NULL::timestamptz AS last_seen_at WHERE false"""
        )
        finding = only(await check(empty_database_url))
        assert finding.mend == (
            'CREATE INDEX CONCURRENTLY ON public."User" (space, "order", "Key" COLLATE "C") WHERE NOT gone;'
        )
        await sql.execute(finding.mend)
        assert (await check(empty_database_url)).findings == []


async def test_the_index_of_a_partitioned_table_is_created_on_all_of_it(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        """ALTER TABLE contacts RENAME TO old; CREATE TABLE contacts (LIKE old) PARTITION BY HASH (id);
           CREATE TABLE part_a PARTITION OF contacts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
           CREATE TABLE part_b PARTITION OF contacts FOR VALUES WITH (MODULUS 2, REMAINDER 1)"""
    )
    await sql.execute("INSERT INTO contacts (id, space_id, created_at) SELECT n, 7, now() FROM generate_series(1, 500) n")
    finding = only(await check(database_url))
    assert finding.mend == "CREATE INDEX ON public.contacts (space_id, created_at, id) WHERE merged_into IS NULL;"
    await sql.execute(finding.mend)
    assert (await check(database_url)).findings == []


async def test_the_biggest_space_is_measured_unless_one_is_named(database_url: str, sql: asyncpg.Connection) -> None:
    for space_id, count in ((3, 20), (4, 900), (5, 30)):
        await add_contacts(sql, space_id, count)
    report = await check(database_url)
    assert (report.space_id, [speed.rows for speed in report.speeds]) == (4, [900, 900])
    report = await check(database_url, space_id=5)
    assert (report.space_id, [speed.rows for speed in report.speeds]) == (5, [30, 30])


# Faults of what is checked -------------------------------------------------------------------------------------------


async def test_a_view_that_raises_is_reported_with_column_row_and_function_but_no_value(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_contacts(sql, 7, 300)
    await sql.execute(
        """CREATE FUNCTION checked(name text) RETURNS text LANGUAGE plpgsql AS $$
           BEGIN IF name = 'Name 137' THEN RAISE EXCEPTION 'bad name %', name; END IF; RETURN name; END $$;
           ALTER TABLE contacts RENAME TO people; CREATE VIEW contacts AS SELECT id, space_id, created_at, email,
             checked(name) AS name, phone, location, merged_into FROM people"""
    )
    (finding,) = [each for each in (await check(database_url)).findings if each.code == "raises"]
    assert finding.place == "contacts"  # a volatile function is called for every column
    assert "in row 137: " in finding.text
    assert "function checked" in finding.text
    assert "Name 137" not in finding.text


async def test_a_view_that_never_ends_is_reported_in_bounded_time(crm: Adopted) -> None:
    await crm.owner.execute(
        f"{VIEW.format('comet_tokens')}SELECT s.person_key AS contact_id, s.cookie AS token,"
        " s.seen AT TIME ZONE 'UTC' AS last_seen_at FROM crm.sightings s CROSS JOIN pg_sleep(3600)"
    )
    began = time.monotonic()
    async with asyncio.timeout(60):
        report = await crm.check(seconds=0.5)
    assert time.monotonic() - began < 30
    assert ("slow", "comet_tokens") in [(each.code, each.place) for each in report.findings]
    (endless,) = [each for each in report.findings if each.code == "endless"]
    assert "all extras" in endless.text
    assert [speed.extras for speed in report.speeds] == ["no extras"]
    ended = await contact_exports("contacts", "check", "--space", "1", "--seconds", "2", **only_contacts(crm.url))
    assert (ended.code, ended.errors) == (2, "")


@pytest.mark.long
async def test_the_server_ends_a_statement_that_is_too_slow_before_the_client_asks_to_cancel_it(crm: Adopted) -> None:
    """The driver would still be asking when the connection is closed, and log an error that is none."""
    await crm.owner.execute(
        f"{VIEW.format('comet_tokens')}SELECT s.person_key AS contact_id, s.cookie AS token,"
        " s.seen AT TIME ZONE 'UTC' AS last_seen_at FROM crm.sightings s CROSS JOIN pg_sleep(3600)"
    )
    async with postgres_proxy(crm.url) as network:
        network.set_mode(Mode.DELAY)
        report = await check(as_role(network.url, crm.role), seconds=2, space_id=1)
        assert {"slow", "endless"} <= {each.code for each in report.findings}
        assert network.cancel_requests == 0


async def test_when_the_time_for_all_reads_is_over_the_rest_is_reported_as_unfinished(crm: Adopted) -> None:
    report = await check_contacts(crm.url, space_id=1, each=timedelta(seconds=5), total=timedelta(0))
    assert {"slow", "unfinished"} >= {each.code for each in report.findings} != set()


async def test_all_reads_together_end_in_the_time_for_all_of_them(sql: asyncpg.Connection) -> None:
    reads = BoundedReads(sql, each=timedelta(seconds=600), total=timedelta(seconds=1))
    async with asyncio.timeout(30):
        assert (await reads.row("SELECT 7 AS number"))["number"] == 7
        with pytest.raises(OutOfTime):
            await reads.row("SELECT pg_sleep(60)")
        with pytest.raises(OutOfTime):
            await reads.row("SELECT 7")
    assert reads.seconds_left == 0


async def test_a_locked_table_is_reported_in_bounded_time(database_url: str, sql: asyncpg.Connection) -> None:
    await add_contacts(sql, 7, 20)
    async with holding(database_url, "LOCK TABLE contact_emails IN ACCESS EXCLUSIVE MODE"), asyncio.timeout(60):
        report = await check(database_url, seconds=0.5)
    assert [(each.level, each.code, each.place) for each in report.findings] == [
        (Level.FAULT, "locked", "contact_emails"),
    ]


@pytest.mark.parametrize(
    ("statement", "code", "text"),
    [
        ("CREATE SEQUENCE contacts", "kind", "contacts is a sequence, not a table or view."),
        ("CREATE TYPE contacts AS (id bigint)", "kind", "contacts is a composite type, not a table or view."),
        ("CREATE INDEX contacts ON old (id)", "kind", "contacts is a name of an index, not a table or view."),
        ("SELECT", "missing", "contacts is missing in the database {database} on "),
    ],
)
async def test_a_relation_of_the_wrong_kind_or_none_is_a_fault(
    database_url: str, sql: asyncpg.Connection, statement: str, code: str, text: str
) -> None:
    await sql.execute(f"ALTER TABLE contacts RENAME TO old; {statement}")
    report = await check(database_url)
    text = text.format(database=urlsplit(database_url).path[1:])
    (found,) = [each for each in report.findings if each.place == "contacts"]
    assert (found.level, found.code) == (Level.FAULT, code)
    assert found.text.startswith(text)


async def test_a_schema_that_the_role_may_not_use_is_named(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE SCHEMA hidden; ALTER TABLE contacts SET SCHEMA hidden")
    async with role(database_url, "GRANT SELECT ON ALL TABLES IN SCHEMA hidden TO {}") as reader:
        report = await check(reader)
    (finding,) = [each for each in report.findings if each.place == "contacts"]
    assert finding.code == "missing"
    assert re.fullmatch(r"GRANT USAGE ON SCHEMA hidden TO reader_\w+;", finding.mend)


async def test_an_unreachable_server_a_wrong_password_and_a_missing_database_are_faults(database_url: str) -> None:
    assert only(await check("postgresql://nobody@127.0.0.1:1/nothing")).code == "unreachable"
    missing = re.sub(r"/contact_exports_test_\w+", "/no_such_database", database_url)
    finding = only(await check(missing))
    assert (finding.code, finding.level) == ("login_refused", Level.FAULT)


# complete_until, encoding, poolers ------------------------------------------------------------------------------------


async def test_each_reason_for_an_unknown_complete_until_has_words_and_a_mend(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_contacts(sql, 7, 3)
    async with role(database_url, "SELECT") as reader:
        finding = only(await check(reader))
    assert (finding.code, finding.level) == ("complete_until_unknown", Level.WARNING)
    assert finding.text == "complete_until is null, because the role may not see the transactions of other sessions."
    assert finding.mend == "GRANT pg_read_all_stats TO the role of the service;"
    named = set(re.findall(r"(?:SELECT|THEN|ELSE) '(\w+)'", statement("source_horizon")))
    assert named == set(UNKNOWN)


async def test_a_materialized_view_is_a_warning_and_explains_complete_until(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_contacts(sql, 7, 30)
    await sql.execute("ALTER TABLE contacts RENAME TO people; CREATE MATERIALIZED VIEW contacts AS SELECT * FROM people")
    await sql.execute("CREATE INDEX ON contacts (space_id, created_at, id) WHERE merged_into IS NULL")
    report = await check(database_url)
    assert {each.code for each in report.findings} == {"materialized_view", "complete_until_unknown"}
    assert (report.complete_until, report.exit_code) == (None, 1)


async def test_a_foreign_table_is_a_warning(database_url: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        "CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing; DROP TABLE comet_tokens;"
        "CREATE FOREIGN TABLE comet_tokens (contact_id bigint, token text, last_seen_at timestamptz) SERVER elsewhere"
    )
    codes = [each.code for each in (await check(database_url)).findings if each.place == "comet_tokens"]
    assert codes == ["foreign_table", "broken"]  # the wrapper of the test cannot read


def make_standby(directory: Path) -> None:
    """Configure the server with data in this directory to start as a standby."""
    (control,) = directory.rglob("pg_control")
    (control.parent.parent / "standby.signal").touch()


async def test_a_standby_is_a_warning() -> None:
    with tempfile.TemporaryDirectory(prefix="contact-exports-tests-") as directory:
        server = EmbeddedPostgres(Path(directory, "postgres"), parameters={"fsync": "off"})
        with server:
            await migrate(server.dsn())
        make_standby(Path(directory))
        with server:
            report = await check(server.dsn())
    (finding,) = [each for each in report.findings if each.code == "complete_until_unknown"]
    assert "a standby does not see the transactions of the primary" in finding.text
    assert report.exit_code == Level.WARNING


async def test_an_encoding_that_accepts_any_bytes_is_a_warning(postgres_server: str) -> None:
    name = f"contact_exports_test_{secrets.token_hex(8)}"
    async with connect(postgres_server) as owner:
        await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            report = await check(urlsplit(postgres_server)._replace(path=f"/{name}").geturl())
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert [each.code for each in report.findings if each.place == "database"] == ["encoding"]


@pytest.mark.debian
async def test_a_pooler_is_a_fault_that_names_the_setting(database_url: str) -> None:
    async with postgres_proxy(database_url) as upstream, pgbouncer(upstream.url) as pooler:
        finding = only(await check(pooler.url))
    assert (finding.code, finding.level) == ("pooler", Level.FAULT)
    assert "CONTACTS_DATABASE_URL" in finding.mend


# The command ---------------------------------------------------------------------------------------------------------


async def test_the_command_prints_the_report_as_text_or_json_and_exits_with_the_worst_level(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_contacts(sql, 7, 50)
    good = await contact_exports("contacts", "check", **only_contacts(database_url))
    assert good.code == 0, good.output
    assert "\npublic.contacts is a table: id bigint not null, " in good.output
    assert "\nExport of the Space 7:\n  plan: Index Scan on contacts" in good.output
    assert re.search(r"\n  all extras: 50 contacts in \d+\.\d\d s, [\d,]+ per second; the first after", good.output)
    assert good.output.endswith("\n0 faults, 0 warnings\n")

    await sql.execute("DROP INDEX contacts_of_space")
    slow = await contact_exports("contacts", "check", **only_contacts(database_url))
    assert slow.code == 1
    assert slow.output.endswith("\n0 faults, 1 warning\n")
    wanted = "CREATE INDEX CONCURRENTLY ON public.contacts (space_id, created_at, id) WHERE merged_into IS NULL;"
    assert f"\n  Mend: {wanted}\n" in slow.output

    await sql.execute("INSERT INTO contacts (space_id, created_at) VALUES (7, 'infinity')")
    wrong = await contact_exports("contacts", "check", "--json", "--space", "7", **only_contacts(database_url))
    assert wrong.code == 2
    report = json.loads(wrong.output)
    assert (report["faults"], report["warnings"], report["space_id"]) == (1, 1, 7)
    assert report["setting"] == "CONTACTS_DATABASE_URL"
    assert {(each["level"], each["code"]) for each in report["findings"]} == {
        ("fault", "infinite_times"),
        ("warning", "index_missing"),
    }
    assert all(each["mend"] for each in report["findings"])
    assert report["speeds"][0]["rows_per_second"] > 0


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("--seconds", "0"), {}, "--seconds"),
        (("--space", "x"), {}, "--space"),
        ((), {"CONTACTS_DATABASE_URL": "nonsense"}, "CONTACTS_DATABASE_URL"),
    ],
)
async def test_bad_arguments_and_settings_are_one_message_and_exit_code_2(
    database_url: str, arguments: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    ended = await contact_exports("contacts", "check", *arguments, **{"DATABASE_URL": database_url, **settings})
    assert (ended.code, ended.output) == (2, "")
    assert message in ended.errors
    assert "Traceback" not in ended.errors

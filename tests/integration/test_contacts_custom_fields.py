"""A contact is the same in a list and in a file, and custom fields are passed through, empty or refused in both."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.exports.stream.lines import encoder
from service.failures import SourceData
from service.model import END_OF_TIME, Claim, Extra, Window
from service.postgres.migrate import check_schema
from service.postgres.session import APPLICATION_NAME
from tests.support.contact_api import CONTACTS, START, YEAR, add, fetched, listed, space_of
from tests.support.snapshots import batches_of, claim_on
from tests.support.web import Site

ALL = {extra.option: 1 for extra in Extra}
EVER = Window(START, END_OF_TIME)
_STATEMENT = "SELECT query FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
HOSTILE = [
    '},{"id":',
    '"},{"id":1,"email":"',
    '\\"},{\\"id\\":',
    "},{",
    "\\",
    '"',
    "\n",
    "\r\n",
    "\x01",
    "\x7f",
    "\u0085",
    "\u2028",
    "\ufeff",
    "\u202eevil",
    "\N{PILE OF POO}",
    "e\u0301",
    "\U0010ffff",
    "",
]
texts = st.lists(
    st.sampled_from(HOSTILE) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9),
    max_size=4,
).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
columns = st.tuples(*[st.none() | texts] * 4)
contacts = st.tuples(
    columns, st.lists(texts, max_size=6), st.lists(texts, max_size=4), st.dictionaries(texts, values, max_size=4)
)


async def file_of(url: str, claim: Claim) -> bytes:
    """The uncompressed bytes of an export."""
    encode = encoder(claim.extras)
    async with batches_of(url, claim) as batches:
        read: list[Sequence[Any]] = [batch async for batch in batches]
    return b"".join(map(encode, read))


async def items_of(api: Site, headers: dict[str, str], **query: Any) -> bytes:
    """The bytes between the brackets of `data` on a page, which has no other pages."""
    response = await api.client.get(CONTACTS, params=YEAR | query, headers=headers)
    assert response.status == 200
    body = await response.read()
    assert body.startswith(b'{"data":[')
    return body[len(b'{"data":[') : body.rindex(b'],"path":')]


async def show_instead(sql: asyncpg.Connection, custom_fields: str) -> None:
    """Replace the contacts by a view with this expression as the custom fields."""
    await sql.execute(
        "ALTER TABLE contacts RENAME TO people;"
        "CREATE VIEW contacts AS SELECT id, space_id, created_at, email, name, phone, location, merged_into,"
        f" {custom_fields} AS custom_fields FROM people"
    )


# Everywhere alike ----------------------------------------------------------------------------------------------------


@given(made=st.lists(contacts, min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_contact_is_the_same_in_a_list_and_in_the_file_byte_for_byte(
    api: Site, sql: asyncpg.Connection, database_url: str, made: list[Any]
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    for number, (column, tokens, emails, fields) in enumerate(made):
        named = dict(zip(("email", "name", "phone", "location"), column, strict=True))
        created_at = START + timedelta(microseconds=number // 2)
        (contact,) = await add(sql, space_id, created_at, **named, custom_fields=json.dumps(fields))
        for table, found in (("comet_tokens", tokens), ("contact_emails", emails)):
            await sql.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(contact, value) for value in set(found)])
    claim = claim_on(space_id=space_id, window=EVER, tokens=True, emails=True, custom_fields=True)
    lines = (await file_of(database_url, claim)).split(b"\n")[:-1]
    assert await items_of(api, headers, **ALL) == b",".join(lines[::-1])
    # Postgres writes 1e308 with all its digits, which are no float.
    read = [json.loads(line, parse_int=float)["custom_fields"] for line in lines]
    assert read == [json.loads(json.dumps(fields), parse_int=float) for *_, fields in made]


async def test_every_combination_of_extras_gives_the_lines_of_the_file(
    api: Site, sql: asyncpg.Connection, database_url: str
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await sql.execute(
        """INSERT INTO contacts (space_id, created_at, email, custom_fields)
           SELECT $1, $2::timestamptz + n % 100 * interval '1 second', 'e' || n,
                  CASE WHEN n % 3 > 0 THEN jsonb_build_object('n', n, 'list', ARRAY[jsonb_build_object('id', n)]) END
             FROM generate_series(1, 3000) n""",
        space_id,
        START,
    )
    await sql.execute("INSERT INTO contact_emails SELECT id, email FROM contacts")
    for tokens, emails, fields in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1)):
        claim = claim_on(
            space_id=space_id, window=EVER, tokens=bool(tokens), emails=bool(emails), custom_fields=bool(fields)
        )
        lines = (await file_of(database_url, claim)).split(b"\n")[:-1]
        query = {"include_comet_tokens": tokens, "include_all_emails": emails, "include_custom_fields": fields}
        assert await items_of(api, headers, per_page=5000, **query) == b",".join(lines[::-1])


@pytest.mark.parametrize("extras", [{}, {"tokens": True, "emails": True}])
async def test_an_export_that_does_not_ask_for_custom_fields_runs_as_if_the_column_were_absent(
    api: Site, sql: asyncpg.Connection, database_url: str, extras: dict[str, bool]
) -> None:
    space_id = await space_of(sql, await api.caller())
    await add(sql, space_id, START, START, custom_fields='{"a": 1}')
    claim = claim_on(space_id=space_id, window=EVER, **extras)
    statements, files, encoders = [], [], []
    for change in ("SELECT 1", "ALTER TABLE contacts DROP COLUMN custom_fields"):
        await sql.execute(change)
        async with batches_of(database_url, claim) as batches:
            await anext(batches)
            statements.append(await sql.fetchval(_STATEMENT, APPLICATION_NAME))
        encoders.append(encoder(claim.extras))
        files.append(await file_of(database_url, claim))
    assert statements[0] == statements[1]
    assert "custom_fields" not in statements[0]
    assert "FROM contacts c" in statements[0]
    assert encoders[0] is encoders[1]
    assert files[0] == files[1]
    assert files[0].count(b"\n") == 2


# No object -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jsonb", "json"])
@pytest.mark.parametrize("value", ['[{"a": 1}]', '"a secret"', "1e400", "true", '"{}"'])
async def test_custom_fields_that_are_no_object_end_an_export_as_source_data_and_are_500_elsewhere(
    api: Site, sql: asyncpg.Connection, database_url: str, value: str, kind: str
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    (contact,) = await add(sql, space_id, START)
    await show_instead(sql, f"'{value}'::{kind}")
    with pytest.raises(SourceData) as caught:
        await file_of(database_url, claim_on(space_id=space_id, window=EVER, custom_fields=True))
    assert "secret" not in str(caught.value)
    for address, query in ((CONTACTS, YEAR), (f"{CONTACTS}/{contact}", {})):
        status, body = await fetched(api, headers, address, **query, include_custom_fields=1)
        assert (status, body["message"], list(body)) == (500, "Internal error.", ["message", "request_id"])
        assert (await fetched(api, headers, address, **query))[0] == 200
    assert await file_of(database_url, claim_on(space_id=space_id, window=EVER))


@pytest.mark.parametrize("expression", ["NULL::jsonb", "NULL::json", "'null'::jsonb", "' null '::json", "'{}'::json", None])
async def test_custom_fields_are_an_empty_object_if_they_are_null_or_the_column_is_absent(
    api: Site, sql: asyncpg.Connection, database_url: str, expression: str | None
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    (contact,) = await add(sql, space_id, START)
    if expression is None:
        await sql.execute("ALTER TABLE contacts DROP COLUMN custom_fields")
    else:
        await show_instead(sql, expression)
    assert await check_schema(database_url, own_contacts=True)
    line = await file_of(database_url, claim_on(space_id=space_id, window=EVER, custom_fields=True))
    assert line.endswith(b',"location":null,"custom_fields":{}}\n')
    assert (await listed(api, headers, include_custom_fields=1))["data"] == [json.loads(line)]
    _, one = await fetched(api, headers, f"{CONTACTS}/{contact}", include_custom_fields=1)
    assert one["custom_fields"] == {}


async def test_a_json_column_cannot_break_a_line_apart(api: Site, sql: asyncpg.Connection, database_url: str) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await add(sql, space_id, START, START)
    await show_instead(sql, """E'{"a":[{"b":1},{"id":\\n2}],\\n"a":[{"c":1},{"id":3}]}'::json""")
    lines = (await file_of(database_url, claim_on(space_id=space_id, window=EVER, custom_fields=True))).split(b"\n")
    assert [json.loads(line)["custom_fields"] for line in lines[:-1]] == [{"a": [{"c": 1}, {"id": 3}]}] * 2
    assert await items_of(api, headers, include_custom_fields=1) == b",".join(lines[:-1][::-1])


@pytest.mark.parametrize("value", ["[]", '"a"', "1", "true", "null"])
async def test_our_own_table_refuses_custom_fields_that_are_no_object(sql: asyncpg.Connection, value: str) -> None:
    with pytest.raises(asyncpg.CheckViolationError, match="custom_fields_are_an_object"):
        await add(sql, 1, START, custom_fields=value)


async def test_an_export_is_created_with_custom_fields(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    body = {**YEAR, "include_custom_fields": 1, "include_all_emails": 1}
    assert (await api.client.post(f"{CONTACTS}/exports", json=body, headers=headers)).status == 202
    assert await sql.fetchval("SELECT extras FROM export_jobs") == ["emails", "custom_fields"]

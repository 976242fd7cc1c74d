"""Ids of contacts may be bigint, integer, uuid or text: in the file, in lists, one at a time, and in the checks."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from yarl import URL

from service.errors import SchemaMismatch
from service.failures import SourceData, SourceUnreadable
from service.postgres.contact_ids import IdType, read_contact_ids
from service.postgres.extras import read_contacts
from tests.support.contact_api import CONTACTS, START, YEAR, add, add_seconds, all_pages, fetched, ids, listed, space_of
from tests.support.contacts import add_contacts
from tests.support.id_types import ID_TYPES, as_type, change_ids, order_of
from tests.support.jobs import connect
from tests.support.snapshots import SPACE, claim_on, lines, source
from tests.support.web import Site, site

OTHER_TYPES = [id_type for id_type in ID_TYPES if id_type != "bigint"]
EXTRAS = {"include_comet_tokens": 1, "include_all_emails": 1}


async def add_groups(sql: asyncpg.Connection, space_id: int, count: int) -> None:
    """Add contacts with tokens and addresses, seven at the same time. Each tenth is merged into the one before it."""
    await add_contacts(sql, space_id, count)
    await sql.execute(
        "UPDATE contacts SET created_at = $1::timestamptz + id / 7 * interval '1 ms',"
        " merged_into = CASE WHEN id % 10 = 0 THEN id - 1 END",
        START,
    )


async def show_instead(sql: asyncpg.Connection, **columns: str) -> None:
    """Replace the contacts by a view with these expressions as columns."""
    names = ("id", "space_id", "created_at", "email", "name", "phone", "location", "merged_into")
    chosen = ", ".join(f"{columns.get(name, name)} AS {name}" for name in names)
    await sql.execute(f"ALTER TABLE contacts RENAME TO people; CREATE VIEW contacts AS SELECT {chosen} FROM people")


async def shown(api: Site, headers: dict[str, str], contact_id: object, **query: Any) -> tuple[int, Any]:
    """Status and body of GET /contacts/{id}, where every character that a path cannot have is percent-encoded."""
    url = URL(str(api.client.make_url(f"{CONTACTS}/x"))[:-1] + quote(str(contact_id), safe=""), encoded=True)
    response = await api.client.session.get(url.update_query(query), headers=headers)
    return response.status, await response.json()


# The file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_type", ID_TYPES)
async def test_a_file_has_ids_of_every_type_in_the_order_of_their_type(
    database_url: str, sql: asyncpg.Connection, id_type: str
) -> None:
    await add_groups(sql, SPACE, 3000)
    claim = claim_on(tokens=True, emails=True)
    created = {row["id"]: row["created_at"] for row in await sql.fetch("SELECT id, created_at FROM contacts")}
    wanted = [
        (created[line["id"]], line | {"id": as_type(line["id"], id_type)}) for line in await lines(database_url, claim)
    ]
    wanted.sort(key=lambda each: (each[0], order_of(each[1]["id"])))
    await change_ids(sql, id_type)
    found = await lines(database_url, claim)
    assert len(found) == 2700
    assert found == [line for _, line in wanted]
    await source(database_url).check()


def test_the_statement_for_bigint_has_no_cast_and_the_others_differ_from_it_only_in_the_id() -> None:
    written = read_contacts(())
    plain = IdType.BIGINT.fit(written)
    assert "SELECT c.id, c.email, c.name, c.phone, c.location \n" in plain
    assert plain.endswith("\n ORDER BY c.created_at, c.id")
    assert IdType.UUID.fit(written) == plain.replace("SELECT c.id,", "SELECT c.id::text,")
    assert IdType.TEXT.fit(written) == f'{plain} COLLATE "C"'


async def bad_id(url: str) -> str | None:
    """The detail of an export that ends because of an id."""
    with pytest.raises(SourceData) as caught:
        await lines(url, claim_on())
    return caught.value.detail


@pytest.mark.parametrize("id_type", ["uuid", "text"])
async def test_a_null_or_repeated_id_of_any_type_ends_an_export_and_no_text_id_is_named(
    database_url: str, sql: asyncpg.Connection, id_type: str
) -> None:
    await add_seconds(sql, SPACE, 40)
    await change_ids(sql, id_type)
    assert (await read_contact_ids(sql)).unique
    chosen = f"created_at = '{START + timedelta(seconds=20)}'"
    await show_instead(sql, id=f"CASE WHEN NOT {chosen} THEN id END")
    assert await bad_id(database_url) == "contacts.id is null in row 21 of the file"
    await sql.execute("DROP VIEW contacts")
    await sql.execute(f"CREATE VIEW contacts AS TABLE people UNION ALL SELECT * FROM people WHERE {chosen}")
    name = f" {as_type(21, id_type)}" if id_type == "uuid" else ""  # text may be an address
    assert await bad_id(database_url) == f"contacts.id{name} is in row 21 and in row 22 of the file"


# Lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_type", OTHER_TYPES)
async def test_lists_equal_the_file_in_both_directions_whatever_the_type_of_ids(
    database_url: str, api: Site, sql: asyncpg.Connection, id_type: str
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await add_groups(sql, space_id, 280)
    await change_ids(sql, id_type)
    wanted = (await lines(database_url, claim_on(space_id=space_id, tokens=True, emails=True)))[::-1]
    assert len(wanted) == 252
    for size in (4, 201):
        pages = await all_pages(api, headers, per_page=size, **EXTRAS)
        assert [list(item.items()) for page in pages for item in page["data"]] == [list(line.items()) for line in wanted]
        back = [pages[-1]]
        while url := back[-1]["prev_page_url"]:
            back.append(await listed(api, headers, url))
        assert [ids(page) for page in back[::-1]] == [ids(page) for page in pages]


@pytest.mark.parametrize("id_type", OTHER_TYPES)
async def test_an_empty_page_links_to_the_contact_it_started_from_whatever_the_type_of_ids(
    api: Site, sql: asyncpg.Connection, id_type: str
) -> None:
    headers = await api.caller()
    await add(sql, await space_of(sql, headers), *[START] * 6)
    await change_ids(sql, id_type)
    newest, middle, oldest = [ids(page) for page in await all_pages(api, headers, per_page=2)]
    page = (await all_pages(api, headers, per_page=2))[1]
    ways_back = []
    for deleted, way, way_back in ((newest, "prev_page_url", "next_page_url"), (oldest, "next_page_url", "prev_page_url")):
        await sql.execute("DELETE FROM contacts WHERE id::text = ANY ($1)", [str(each) for each in deleted])
        empty = await listed(api, headers, page[way])
        assert (ids(empty), empty[way]) == ([], None)
        assert ids(await listed(api, headers, empty[way_back])) == middle
        ways_back.append(empty[way_back])
    await sql.execute("DELETE FROM contacts")
    assert [ids(await listed(api, headers, url)) for url in ways_back] == [[], []]


async def test_cursors_work_with_text_ids_of_a_thousand_bytes_and_any_character(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await change_ids(sql, "text")
    texts = [
        "",
        " ",
        "\n",
        "\x01",
        "a\nb",
        '"},{"id":',
        "\u2028",
        "é" * 500,
        "😀" * 250,
        "~",
        "%2F",
        "a/b",
        "..",
        "{x}",
        "x" * 1000,
    ]
    await sql.executemany(
        "INSERT INTO contacts (id, space_id, created_at) VALUES ($1, $2, $3)", [(text, space_id, START) for text in texts]
    )
    wanted = sorted(texts, key=str.encode, reverse=True)
    pages = await all_pages(api, headers, per_page=1)
    assert [ids(page) for page in pages] == [[text] for text in wanted]
    back = [pages[-1]]
    while url := back[-1]["prev_page_url"]:
        back.append(await listed(api, headers, url))
    assert [ids(page) for page in back] == [[text] for text in wanted[::-1]]
    for text in wanted:
        status, body = await shown(api, headers, text)
        assert (status, body.get("id")) == ((200, text) if text else (404, None)), text


@pytest.mark.parametrize(("before", "after"), [("bigint", "uuid"), ("text", "uuid"), ("text", "bigint")])
async def test_a_cursor_with_an_id_of_another_type_is_422(
    api: Site, sql: asyncpg.Connection, before: str, after: str
) -> None:
    headers = await api.caller()
    await add_seconds(sql, await space_of(sql, headers), 2)
    if before != "bigint":
        await change_ids(sql, before)
    url = (await listed(api, headers, per_page=1))["next_page_url"]
    await sql.execute("DROP TABLE contacts, contact_emails, comet_tokens")
    await sql.execute(
        f"CREATE TABLE contacts (id {after}, space_id bigint, created_at timestamptz, email text, name text, phone text,"
        f" location text, merged_into {after})"
    )
    assert (await fetched(api, headers, CONTACTS, **YEAR))[0] == 503, "the type is read again after this error"
    status, body = await fetched(api, headers, url)
    assert (status, body["errors"]) == (
        422,
        {"cursor": ["cursor is no longer valid, because the type of the ids has changed."]},
    )
    assert ids(await listed(api, headers)) == []


# One contact ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_type", ID_TYPES)
async def test_one_contact_and_its_merged_profiles_are_found_whatever_the_type_of_ids(
    api: Site, sql: asyncpg.Connection, id_type: str
) -> None:
    headers, other = await api.caller(), await api.caller()
    space_id = await space_of(sql, headers)
    await add_groups(sql, space_id, 20)
    (foreign,) = await add(sql, await space_of(sql, other), START)
    await change_ids(sql, id_type)
    survivor, merged = as_type(9, id_type), as_type(10, id_type)
    status, body = await shown(api, headers, survivor, include_comet_tokens=1)
    assert (status, body["id"], body["names"]) == (200, survivor, ["Name 9", "Name 10"])
    assert (body["emails"], len(body["comet_tokens"])) == (["user9@example.org"], 3)
    assert await shown(api, headers, merged, include_comet_tokens=1) == (status, body)
    assert (await shown(api, headers, as_type(foreign, id_type)))[0] == 404
    assert (await shown(api, other, as_type(foreign, id_type)))[0] == 200


@pytest.mark.parametrize("id_type", ["uuid", "text"])
async def test_text_that_is_no_id_of_the_type_is_404_like_an_unknown_id(
    api: Site, sql: asyncpg.Connection, id_type: str
) -> None:
    headers = await api.caller()
    await add_seconds(sql, await space_of(sql, headers), 3)
    await change_ids(sql, id_type)
    number, uuid = "9223372036854775807", str(uuid4())
    malformed = ["x", "1.0", "01", "+1", "-0", str(2**63), "9" * 400, uuid[:-1], uuid.replace("-", ""), f"{{{uuid}}}"]
    for text in (number, uuid, *malformed, f"urn:uuid:{uuid}", "\N{ARABIC-INDIC DIGIT ONE}", "\0", "a\0", " 1", "1 ", "'"):
        status, body = await shown(api, headers, text)
        assert (status, body) == (404, {"message": "Contact not found."}), text
    half_a_pair = await api.send(f"GET {CONTACTS}/%ED%A0%80 HTTP/1.1\nHost: x\nAuthorization: {headers['Authorization']}")
    assert (half_a_pair.status, half_a_pair.body) == (404, b'{"message":"Contact not found."}')
    if id_type == "uuid":
        assert (await shown(api, headers, str(as_type(1, id_type)).upper()))[0] == 200


async def test_an_id_with_characters_that_the_encoding_of_the_database_lacks_is_404(
    database_url: str, postgres_server: str, tmp_path: Path
) -> None:
    name = f"contact_exports_test_{uuid4().hex}"
    url = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    async with connect(postgres_server) as owner:
        await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            async with connect(url) as sql, site(database_url, tmp_path, contacts_url=url) as api:
                headers = await api.caller()
                await sql.execute(
                    "CREATE TABLE contacts (id text, space_id bigint, created_at timestamptz, email text, name text,"
                    " phone text, location text, merged_into text);"
                    "CREATE TABLE contact_emails (contact_id text, email text, last_seen_at timestamptz);"
                    "INSERT INTO contacts SELECT 'é', id, now() FROM generate_series(1, 9) id"
                )
                assert (await shown(api, headers, "é"))[1]["id"] == "é"
                assert (await shown(api, headers, "😀"))[0] == 404
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")


# Refused types -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_type", ["numeric", "bytea", "character", "smallint", "person_id"])
async def test_ids_of_another_type_are_refused_by_a_sentence_that_names_relation_column_and_type(
    database_url: str, api: Site, sql: asyncpg.Connection, id_type: str
) -> None:
    headers = await api.caller()
    await sql.execute("CREATE DOMAIN person_id AS bigint")
    await show_instead(sql, id=f"NULL::{id_type}")
    sentence = f"contacts.id is {id_type} instead of bigint, uuid or text; a view may cast it"
    with pytest.raises(SchemaMismatch) as mismatch:
        await source(database_url).check()
    assert mismatch.value.message == f"The contacts cannot be read: {sentence}."
    with pytest.raises(SourceUnreadable) as unreadable:
        await lines(database_url, claim_on())
    assert unreadable.value.detail == mismatch.value.message
    for address, query in ((CONTACTS, YEAR), (f"{CONTACTS}/1", {})):
        status, body = await fetched(api, headers, address, **query)
        assert (status, body["message"]) == (503, SourceUnreadable.message)
    await sql.execute("DROP VIEW contacts; ALTER TABLE people RENAME TO contacts")
    assert ids(await listed(api, headers)) == []


async def test_columns_that_refer_to_contacts_must_have_the_type_of_their_ids_and_each_difference_is_named(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await show_instead(sql, id="md5(id::text)::uuid", merged_into="merged_into::integer")
    await sql.execute("ALTER TABLE comet_tokens ALTER COLUMN contact_id TYPE numeric")
    with pytest.raises(SchemaMismatch) as caught:
        await source(database_url).check()
    assert caught.value.message == (
        "The contacts cannot be read:"
        " comet_tokens.contact_id is numeric instead of bigint, uuid or text; a view may cast it;"
        " contacts.merged_into is integer, but contacts.id is uuid; a view may cast it;"
        " contact_emails.contact_id is bigint, but contacts.id is uuid; a view may cast it."
    )
    with pytest.raises(SourceUnreadable) as unreadable:
        await lines(database_url, claim_on(emails=True))
    assert unreadable.value.detail == caught.value.message


async def test_text_ids_must_not_have_two_collations_and_the_difference_is_named(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add_contacts(sql, SPACE, 3)
    await change_ids(sql, "text")
    await sql.execute('ALTER TABLE comet_tokens ALTER COLUMN contact_id TYPE text COLLATE "default"')
    assert await source(database_url).fault() is None
    assert all(len(line["comet_tokens"]) == 3 for line in await lines(database_url, claim_on(tokens=True)))
    await sql.execute('ALTER TABLE comet_tokens ALTER COLUMN contact_id TYPE varchar COLLATE "POSIX"')
    wanted = (
        'The contacts cannot be read: comet_tokens.contact_id has the collation "POSIX", but contacts.id has words;'
        " a view may change it."
    )
    assert await source(database_url).fault() == wanted
    with pytest.raises(SourceUnreadable) as caught:
        await lines(database_url, claim_on(tokens=True))
    assert caught.value.detail == wanted

"""GET /contacts/{id}: the values of one contact, merged profiles, and 404."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from service.model import Scope
from tests.support.contact_api import CONTACTS, START, add, fetched, space_of
from tests.support.web import Site, site

DAY = timedelta(days=1)


async def shown(api: Site, headers: dict[str, str], contact: int, **query: Any) -> dict[str, Any]:
    """The body of a successful call."""
    status, body = await fetched(api, headers, f"{CONTACTS}/{contact}", **query)
    assert status == 200, body
    return dict(body)


async def test_a_contact_without_values_has_empty_lists_in_the_order_of_the_contract(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START)
    empty: list[tuple[str, Any]] = [("id", contact), ("emails", []), ("phones", []), ("names", []), ("locations", [])]
    assert list((await shown(api, headers, contact)).items()) == empty
    tokens: tuple[str, Any] = ("comet_tokens", [])
    fields: tuple[str, Any] = ("custom_fields", {})
    assert list((await shown(api, headers, contact, include_comet_tokens=1)).items()) == [*empty, tokens]
    both = await shown(api, headers, contact, include_custom_fields=1, include_comet_tokens=1)
    assert list(both.items()) == [*empty, tokens, fields]


async def test_values_are_the_survivors_first_then_those_of_merged_profiles_newest_first_each_once(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    (survivor,) = await add(sql, space_id, START, name="own", phone="1", location=None)
    for days, name, phone, location in (
        (1, "older", "2", "Rome"),
        (3, "newer", "1", "Oslo"),
        (2, "own", None, "Rome"),
        (3, "Newer", "3", None),
    ):
        await add(sql, space_id, START + days * DAY, name=name, phone=phone, location=location, merged_into=survivor)
    body = await shown(api, headers, survivor)
    assert body["names"] == ["own", "Newer", "newer", "older"]
    assert body["phones"] == ["1", "3", "2"]
    assert body["locations"] == ["Oslo", "Rome"]


async def test_emails_are_those_of_the_contact_most_recent_first_each_once(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START, email="b@x.test")
    for address, days in (("b@x.test", 1), ("c@x.test", 2), ("a@x.test", 1)):
        await sql.execute("INSERT INTO contact_emails VALUES ($1, $2, $3)", contact, address, START + days * DAY)
    assert (await shown(api, headers, contact))["emails"] == ["c@x.test", "a@x.test", "b@x.test"]
    await sql.execute(
        "ALTER TABLE contact_emails RENAME TO addresses;"
        "CREATE VIEW contact_emails AS SELECT * FROM addresses UNION ALL SELECT * FROM addresses"
    )
    assert (await shown(api, headers, contact))["emails"] == ["c@x.test", "a@x.test", "b@x.test"]


async def test_there_are_at_most_25_values_of_a_kind_and_5_comet_tokens(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    (survivor,) = await add(sql, space_id, START, name="own", phone="own", location="own")
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at, name, phone, location, merged_into)"
        " SELECT $1, $2::timestamptz + n * interval '1 day', 'n' || n, 'p' || n, 'l' || n, $3 FROM generate_series(1, 40) n",
        space_id,
        START,
        survivor,
    )
    for table in ("contact_emails", "comet_tokens"):
        await sql.execute(
            f"INSERT INTO {table} SELECT $1, 'v' || n, $2::timestamptz + n * interval '1 day' FROM generate_series(1, 40) n",
            survivor,
            START,
        )
    body = await shown(api, headers, survivor, include_comet_tokens=1)
    newest = range(40, 16, -1)
    assert body["names"] == ["own", *(f"n{number}" for number in newest)]
    assert body["phones"] == ["own", *(f"p{number}" for number in newest)]
    assert body["locations"] == ["own", *(f"l{number}" for number in newest)]
    assert body["emails"] == [f"v{number}" for number in range(40, 15, -1)]
    assert body["comet_tokens"] == ["v40", "v39", "v38", "v37", "v36"]


async def test_a_merged_away_id_answers_with_the_survivor(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    survivor, merged = await add(sql, space_id, START, START, name="x", email="x@x.test", custom_fields='{"a": 1}')
    await sql.execute("UPDATE contacts SET name = 'y', custom_fields = NULL WHERE id = $1", merged)
    await sql.fetchval("SELECT merge_contacts($1, $2)", survivor, merged)
    body = await shown(api, headers, merged, include_custom_fields=1)
    assert body == await shown(api, headers, survivor, include_custom_fields=1)
    assert (body["id"], body["names"], body["custom_fields"]) == (survivor, ["x", "y"], {"a": 1})


async def test_a_merged_away_id_without_a_survivor_is_404(api: Site, sql: asyncpg.Connection) -> None:
    headers, other = await api.caller(), await api.caller()
    space_id, other_space = await space_of(sql, headers), await space_of(sql, other)
    (foreign,) = await add(sql, other_space, START)
    (dangling,) = await add(sql, space_id, START, merged_into=987654)
    (outside,) = await add(sql, space_id, START, merged_into=foreign)
    (end,) = await add(sql, space_id, START)
    (middle,) = await add(sql, space_id, START, merged_into=end)
    (chained,) = await add(sql, space_id, START, merged_into=middle)
    for contact in (dangling, outside, chained):
        assert (await api.client.get(f"{CONTACTS}/{contact}", headers=headers)).status == 404
    assert (await shown(api, headers, middle))["id"] == end


async def test_unknown_and_foreign_ids_are_the_same_404(api: Site, sql: asyncpg.Connection) -> None:
    headers, other = await api.caller(), await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START)
    (merged,) = await add(sql, await space_of(sql, headers), START, merged_into=contact)
    bodies = set()
    for foreign in (contact, merged, 987654):
        response = await api.client.get(f"{CONTACTS}/{foreign}", headers=other)
        assert response.status == 404
        bodies.add(await response.read())
    assert bodies == {b'{"message":"Contact not found."}'}


async def test_values_of_other_spaces_never_appear(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START, name="mine")
    await add(sql, await space_of(sql, await api.caller()), START, name="foreign", merged_into=contact)
    assert (await shown(api, headers, contact))["names"] == ["mine"]


async def test_ids_at_the_edges_of_bigint_are_found(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    for contact in (2**63 - 1, 0, -1, -(2**63)):
        await add(sql, space_id, START, id=contact)
        assert (await shown(api, headers, contact))["id"] == contact


async def test_relations_with_integer_ids_answer_for_every_bigint(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START, name="x")
    await sql.execute(
        "ALTER TABLE contacts RENAME TO people;"
        "CREATE VIEW contacts AS SELECT id::integer, space_id::integer, created_at, email, name, phone, location,"
        " merged_into::integer FROM people"
    )
    assert (await shown(api, headers, contact))["names"] == ["x"]
    assert (await api.client.get(f"{CONTACTS}/{2**63 - 1}", headers=headers)).status == 404
    query = "start_date=2024-01-01 00:00:00&end_date=2024-12-31 23:59:59&per_page=1"
    page = await (await api.client.get(f"{CONTACTS}?{query}", headers=headers)).json()
    assert [item["id"] for item in page["data"]] == [contact]


async def test_getting_needs_the_scope_contacts_read_and_has_a_bucket_of_its_own(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, get_contact="1/minute") as api:
        assert (await api.client.get(f"{CONTACTS}/1")).status == 401
        exports_only = await api.caller(Scope.EXPORTS_READ, Scope.EXPORTS_WRITE)
        assert (await api.client.get(f"{CONTACTS}/1", headers=exports_only)).status == 403
        headers = await api.caller(Scope.CONTACTS_READ)
        answers = [await api.client.get(f"{CONTACTS}/1", headers=headers) for _ in range(2)]
        assert [answer.status for answer in answers] == [404, 429]
        assert answers[0].headers["RateLimit-Policy"] == '"get-contact";q=1;w=60'
        assert (await api.client.get(CONTACTS, headers=headers)).status == 422


async def test_head_of_a_contact_has_no_body_and_other_methods_are_405(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START)
    head = await api.client.head(f"{CONTACTS}/{contact}", headers=headers)
    assert (head.status, await head.read()) == (200, b"")
    wrong = await api.client.delete(f"{CONTACTS}/{contact}", headers=headers)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD")

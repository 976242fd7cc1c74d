"""GET /contacts: the window, the order, the pages, and the items, as the contract says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from service.model import Scope
from tests.support.contact_api import (
    CONTACTS,
    ENVELOPE,
    START,
    YEAR,
    add,
    add_seconds,
    all_pages,
    fetched,
    ids,
    listed,
    space_of,
)
from tests.support.jobs import connect
from tests.support.web import Site, site

SECOND = timedelta(seconds=1)


async def test_a_space_without_contacts_has_an_empty_page_with_the_whole_envelope(
    api: Site, sql: asyncpg.Connection
) -> None:
    await add_seconds(sql, await space_of(sql, await api.caller()), 3)
    page = await listed(api, await api.caller())
    assert list(page) == ENVELOPE
    path = str(api.client.make_url(CONTACTS))
    assert page == {**dict.fromkeys(ENVELOPE), "data": [], "path": path, "per_page": 200}


async def test_contacts_are_listed_newest_first_and_at_the_same_time_by_id_descending(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    same = await add(sql, space_id, *[START] * 5)
    (newest,) = await add(sql, space_id, START + timedelta(microseconds=1))
    (oldest,) = await add(sql, space_id, START - timedelta(microseconds=1))
    wanted = [newest, *same[::-1], oldest]
    assert ids(await listed(api, headers)) == wanted
    for size in (1, 2, 3):
        pages = await all_pages(api, headers, per_page=size)
        assert [contact for page in pages for contact in ids(page)] == wanted


async def test_an_item_has_the_keys_of_a_line_of_the_file_in_its_order(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(
        sql,
        await space_of(sql, headers),
        START,
        email="a@b.test",
        name="Zoë",
        custom_fields='{"plan": "pro", "a": [1.50, null]}',
    )
    await sql.execute(
        "INSERT INTO contact_emails VALUES ($1, 'old@b.test', $2), ($1, 'a@b.test', $3)", contact, START, START + SECOND
    )
    await sql.execute(
        "INSERT INTO comet_tokens SELECT $1, 't' || n, $2::timestamptz + n * interval '1 day' FROM generate_series(1, 7) n",
        contact,
        START,
    )
    base = [("id", contact), ("email", "a@b.test"), ("name", "Zoë"), ("phone", None), ("location", None)]
    tokens = ("comet_tokens", ["t7", "t6", "t5", "t4", "t3"])
    emails = ("emails", ["a@b.test", "old@b.test"])
    fields = ("custom_fields", {"a": [1.5, None], "plan": "pro"})
    for query, wanted in (
        ({}, base),
        ({"include_comet_tokens": 1}, [*base, tokens]),
        ({"include_all_emails": 1}, [*base, emails]),
        ({"include_custom_fields": 1}, [*base, fields]),
        ({"include_custom_fields": 1, "include_all_emails": 1, "include_comet_tokens": 1}, [*base, tokens, emails, fields]),
        ({"include_custom_fields": "true", "include_all_emails": 0, "include_comet_tokens": "false"}, [*base, fields]),
    ):
        (item,) = (await listed(api, headers, **query))["data"]
        assert list(item.items()) == wanted


async def test_extras_are_empty_where_a_contact_has_none(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await add(sql, await space_of(sql, headers), START)
    (item,) = (await listed(api, headers, include_comet_tokens=1, include_all_emails=1, include_custom_fields=1))["data"]
    assert (item["comet_tokens"], item["emails"], item["custom_fields"]) == ([], [], {})


async def test_contacts_of_other_spaces_and_merged_away_contacts_are_never_listed(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    (survivor,) = await add(sql, space_id, START)
    await add(sql, space_id, START, merged_into=survivor)
    await add_seconds(sql, await space_of(sql, await api.caller()), 3)
    assert ids(await listed(api, headers)) == [survivor]


# The window ----------------------------------------------------------------------------------------------------------


async def test_both_ends_of_the_window_are_inclusive_to_the_whole_second(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    tick = timedelta(microseconds=1)
    end = START + timedelta(days=1)
    _, first, last, _ = await add(sql, await space_of(sql, headers), START - tick, START, end - tick, end)
    window = {"start_date": "2024-03-01 00:00:00", "end_date": "2024-03-01 23:59:59"}
    assert ids(await listed(api, headers, **window)) == [last, first]
    pages = await all_pages(api, headers, **window, per_page=1)
    assert [ids(page) for page in pages] == [[last], [first]]


@pytest.mark.parametrize(
    ("dates", "start", "end"),
    [
        # Clocks go back at 03:00 (01:00 UTC): start takes the earlier instant, end the later.
        (("2024-10-27 02:30:00", "2024-10-27 02:30:01"), datetime(2024, 10, 27, 0, 30), datetime(2024, 10, 27, 1, 30, 2)),
        # Clocks go forward at 02:00 (01:00 UTC): both ends take the first valid instant, and the end its inclusive second.
        (("2024-03-31 02:10:00", "2024-03-31 02:50:00"), datetime(2024, 3, 31, 1), datetime(2024, 3, 31, 1, 0, 1)),
    ],
)
async def test_the_window_follows_the_rules_of_an_export_when_clocks_change(
    api: Site, sql: asyncpg.Connection, dates: tuple[str, str], start: datetime, end: datetime
) -> None:
    headers = await api.caller(zone="Europe/Berlin")
    start, end = start.replace(tzinfo=UTC), end.replace(tzinfo=UTC)
    tick = timedelta(microseconds=1)
    _, first, last, _ = await add(sql, await space_of(sql, headers), start - tick, start, end - tick, end)
    assert ids(await listed(api, headers, start_date=dates[0], end_date=dates[1])) == [last, first]


async def test_an_open_range_reaches_every_time_that_the_database_can_store(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    last = "9999-12-31 23:59:59.999999Z"
    times = ["-infinity", "0001-01-01Z", "2024-03-01Z", "9999-12-31 23:59:59.999998Z", last, "20000-01-01Z"]
    created = [
        await sql.fetchval(
            "INSERT INTO contacts (space_id, created_at) VALUES ($1, $2::text::timestamptz) RETURNING id", space_id, time
        )
        for time in times
    ]
    window = {"start_date": "0001-01-01 00:00:00", "end_date": "9999-12-31 23:59:59"}
    pages = await all_pages(api, headers, **window, per_page=1)
    assert [ids(page) for page in pages] == [[contact] for contact in created[::-1]]
    assert ids(await listed(api, headers, pages[-1]["prev_page_url"])) == [created[1]]


async def test_a_space_with_an_unknown_timezone_gets_422_naming_it(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await sql.execute("UPDATE spaces SET timezone = 'Mars/Olympus'")
    status, body = await fetched(api, headers, CONTACTS, **YEAR)
    assert (status, list(body["errors"])) == (422, ["timezone"])
    assert "Mars/Olympus" in body["message"]


async def test_the_maximum_range_of_the_operator_applies(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, max_range_days=31) as api:
        headers = await api.caller()
        status, body = await fetched(api, headers, CONTACTS, **YEAR)
        assert (status, list(body["errors"])) == (422, ["end_date"])
        status, _ = await fetched(api, headers, CONTACTS, start_date="2024-01-01 00:00:00", end_date="2024-01-31 23:59:59")
        assert status == 200


# Pages ---------------------------------------------------------------------------------------------------------------


async def test_following_the_links_reaches_every_page_forwards_and_backwards(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    created = await add_seconds(sql, await space_of(sql, headers), 7)
    pages = await all_pages(api, headers, per_page=3)
    assert [ids(page) for page in pages] == [created[:3], created[3:6], created[6:]]
    assert [page["prev_cursor"] is None for page in pages] == [True, False, False]
    assert [page["per_page"] for page in pages] == [3, 3, 3]
    back = [pages[-1]]
    while url := back[-1]["prev_page_url"]:
        back.append(await listed(api, headers, url))
    assert [ids(page) for page in back] == [created[6:], created[3:6], created[:3]]
    assert back[-1]["next_cursor"] == pages[0]["next_cursor"]
    assert ids(await listed(api, headers, per_page=3, cursor=pages[0]["next_cursor"])) == created[3:6]


@pytest.mark.parametrize("size", [199, 200, 201, 202, 1000, 1201, 1202, 2402, 5000])
async def test_pages_of_any_size_have_every_contact_once_in_both_directions(
    api: Site, sql: asyncpg.Connection, size: int
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at) SELECT $1, $2::timestamptz + n / 7 * interval '1 ms'"
        " FROM generate_series(1, 2402) n",
        space_id,
        START,
    )
    rows = await sql.fetch("SELECT id FROM contacts WHERE space_id = $1 ORDER BY created_at DESC, id DESC", space_id)
    wanted = [row["id"] for row in rows]
    pages = await all_pages(api, headers, per_page=size)
    assert [len(page["data"]) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert 0 < len(pages[-1]["data"]) <= size
    assert [contact for page in pages for contact in ids(page)] == wanted
    back = [pages[-1]]
    while url := back[-1]["prev_page_url"]:
        back.append(await listed(api, headers, url))
    assert [ids(page) for page in back[::-1]] == [ids(page) for page in pages]


async def test_a_full_last_page_has_no_next_page(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await add_seconds(sql, await space_of(sql, headers), 4)
    first = await listed(api, headers, per_page=2)
    second = await listed(api, headers, first["next_page_url"])
    assert (len(second["data"]), second["next_cursor"], second["next_page_url"]) == (2, None, None)


async def test_new_and_deleted_contacts_do_not_shift_the_pages(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    created = await add_seconds(sql, space_id, 4)
    first = await listed(api, headers, per_page=2)
    (newest,) = await add(sql, space_id, START + timedelta(hours=1))
    second = await listed(api, headers, first["next_page_url"])
    assert ids(second) == created[2:]
    await sql.execute("DELETE FROM contacts WHERE id = ANY ($1)", [*created[2:], created[1]])
    again = await listed(api, headers, first["next_page_url"])
    assert (ids(again), again["next_cursor"]) == ([], None)
    assert ids(await listed(api, headers, again["prev_page_url"])) == [newest, created[0]]


async def test_an_empty_page_links_back_to_the_contact_it_started_from(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    created = await add_seconds(sql, await space_of(sql, headers), 3)
    first = await listed(api, headers, per_page=2)
    await sql.execute("DELETE FROM contacts WHERE id = $1", created[2])
    empty = await listed(api, headers, first["next_page_url"])
    assert ids(empty) == []
    assert ids(await listed(api, headers, empty["prev_page_url"])) == created[:2]
    await sql.execute("DELETE FROM contacts WHERE id = $1", created[0])
    second = await listed(api, headers, per_page=1)
    back = await listed(api, headers, empty["prev_page_url"])
    assert (ids(back), back["prev_cursor"]) == (ids(second), None)


async def test_an_empty_previous_page_links_forward(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    created = await add_seconds(sql, await space_of(sql, headers), 3)
    first = await listed(api, headers, per_page=1)
    second = await listed(api, headers, first["next_page_url"])
    await sql.execute("DELETE FROM contacts WHERE id = $1", created[0])
    back = await listed(api, headers, second["prev_page_url"])
    assert (ids(back), back["prev_cursor"]) == ([], None)
    assert ids(await listed(api, headers, back["next_page_url"])) == [created[1]]


async def test_ids_at_the_edges_of_bigint_are_listed_and_paged(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    edges = [2**63 - 1, 1, 0, -1, -(2**63)]
    for contact in edges:
        await add(sql, space_id, START, id=contact)
    pages = await all_pages(api, headers, per_page=1)
    assert [ids(page) for page in pages] == [[contact] for contact in edges]
    assert ids(await listed(api, headers, pages[-1]["prev_page_url"])) == [-1]


async def test_the_links_of_a_page_repeat_the_dates_and_options(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, public_url="https://exports.test/base") as api, connect(database_url) as sql:
        headers = await api.caller()
        await add_seconds(sql, await space_of(sql, headers), 3)
        first = await listed(api, headers, per_page=1, include_comet_tokens=1)
        assert first["path"] == f"https://exports.test/base{CONTACTS}"
        query = "start_date=2024-01-01+00:00:00&end_date=2024-12-31+23:59:59&include_comet_tokens=1&per_page=1"
        assert first["next_page_url"] == f"{first['path']}?{query}&cursor={first['next_cursor']}"


# Access --------------------------------------------------------------------------------------------------------------


async def test_listing_needs_the_scope_contacts_read_and_an_active_subscription(api: Site, sql: asyncpg.Connection) -> None:
    address = f"{CONTACTS}?start_date=2024-01-01 00:00:00&end_date=2024-12-31 23:59:59"
    headers = await api.caller(Scope.CONTACTS_READ)
    assert (await api.client.get(address, headers=headers)).status == 200
    assert (await api.client.get(address, headers=await api.caller(Scope.EXPORTS_READ, Scope.EXPORTS_WRITE))).status == 403
    assert (await api.client.get(address)).status == 401
    await sql.execute("UPDATE spaces SET subscription_active = false")
    assert (await api.client.get(address, headers=headers)).status == 403


async def test_listing_has_a_bucket_of_its_own(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, list_contacts="2/minute") as api:
        headers = await api.caller()
        answers = [await api.client.get(CONTACTS, headers=headers) for _ in range(3)]
        assert [answer.status for answer in answers] == [422, 422, 429]
        assert answers[0].headers["X-RateLimit-Limit"] == "2"
        assert answers[0].headers["RateLimit-Policy"] == '"list-contacts";q=2;w=60'
        assert 0 < int(answers[2].headers["Retry-After"]) <= 60
        assert (await api.client.get(f"{CONTACTS}/1", headers=headers)).status == 404
        assert (await api.client.get(f"{CONTACTS}/exports", headers=headers)).status == 200


async def test_head_of_a_list_has_no_body_and_other_methods_are_405(api: Site) -> None:
    headers = await api.caller()
    head = await api.client.head(CONTACTS, params=YEAR, headers=headers)
    assert (head.status, await head.read()) == (200, b"")
    wrong = await api.client.post(CONTACTS, headers=headers)
    assert (wrong.status, wrong.headers["Allow"]) == (405, "GET,HEAD")

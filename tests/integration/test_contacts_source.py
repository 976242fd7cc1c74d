"""The contact API while the contacts' database is down, slow, incomplete or large."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.contacts.pages import MAXIMUM_BYTES
from service.model import Extras
from service.postgres import contacts
from service.postgres.extras import Connection, extra_fragments
from tests.support.contact_api import CONTACTS, START, YEAR, add, add_seconds, all_pages, fetched, ids, listed, space_of
from tests.support.contacts import add_wide_contacts
from tests.support.jobs import connect, holding
from tests.support.roles import role
from tests.support.waiting import until_row
from tests.support.web import EXPORTS, Site, site

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'contact-exports contacts'"""
WAITING = f"SELECT 1 FROM ({SESSIONS} AND wait_event_type = 'Lock') AS found (number) WHERE number = $1"


UNREACHABLE = "The contacts could not be read. Please try again later."
UNREADABLE = "The contacts cannot be read. Please contact the operator."


async def unavailable(api: Site, headers: dict[str, str], address: str, *, message: str = UNREACHABLE, **query: Any) -> None:
    """Check that a call responds with 503 as the contract says."""
    url = api.client.make_url(address).update_query(query)
    response = await api.client.session.get(url, headers=headers)
    body = await response.json()
    assert (response.status, int(response.headers["Retry-After"])) == (503, 5), body
    assert body["message"] == message
    assert body["request_id"] == response.headers["X-Request-Id"]


async def test_a_contacts_database_that_is_down_is_503_and_leaves_exports_unharmed(
    database_url: str, tmp_path: Path
) -> None:
    async with site(database_url, tmp_path, contacts_url=NOWHERE, contacts_timeout=5.0) as api:
        headers = await api.caller()
        await unavailable(api, headers, CONTACTS, **YEAR)
        await unavailable(api, headers, f"{CONTACTS}/1")
        export = await api.create(headers)
        assert (await api.client.get(f"{EXPORTS}/{export}", headers=headers)).status == 200


async def test_a_contacts_database_that_is_slow_is_503_and_delays_neither_exports_nor_status_calls(
    database_url: str, tmp_path: Path
) -> None:
    async with site(database_url, tmp_path, contacts_pool_size=4, contacts_timeout=3.0) as api, connect(database_url) as sql:
        headers = await api.caller()
        export = await api.create(headers)
        async with holding(database_url, "LOCK TABLE contacts IN ACCESS EXCLUSIVE MODE"):
            calls = [asyncio.create_task(unavailable(api, headers, CONTACTS, **YEAR)) for _ in range(6)]
            await until_row(sql, WAITING, 2)
            async with asyncio.timeout(2):
                await api.priority.before_batch()
                assert (await api.client.get(f"{EXPORTS}/{export}", headers=headers)).status == 200
                # Waiting for the contacts does not count as a request in flight, for which exports would pause.
                for _ in range(500):
                    await api.priority.before_batch()
            assert not any(call.done() for call in calls)
            await asyncio.gather(*calls)
        await listed(api, headers)


async def test_row_level_security_is_503_not_an_empty_list(
    database_url: str, tmp_path: Path, sql: asyncpg.Connection
) -> None:
    async with (
        role(database_url, "GRANT USAGE ON SCHEMA public TO {}") as url,
        site(database_url, tmp_path, contacts_url=url) as api,
    ):
        headers = await api.caller()
        (contact,) = await add(sql, await space_of(sql, headers), START)
        await listed(api, headers)
        await sql.execute("ALTER TABLE contacts ENABLE ROW LEVEL SECURITY")
        await unavailable(api, headers, CONTACTS, message=UNREADABLE, **YEAR)
        await unavailable(api, headers, f"{CONTACTS}/{contact}", message=UNREADABLE)
        await sql.execute("ALTER TABLE contacts DISABLE ROW LEVEL SECURITY")
        assert ids(await listed(api, headers)) == [contact]


async def test_large_pages_leave_connections_for_single_contacts(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, contacts_pool_size=4, large_pages=1) as api, connect(database_url) as sql:
        headers = await api.caller()
        (contact,) = await add(sql, await space_of(sql, headers), START)
        async with holding(database_url, "LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE"):
            large = [asyncio.create_task(listed(api, headers, per_page=5000, include_comet_tokens=1)) for _ in range(4)]
            await until_row(sql, WAITING, 1)
            for _ in range(3):
                assert (await fetched(api, headers, f"{CONTACTS}/{contact}"))[0] == 200
            assert ids(await listed(api, headers, per_page=200)) == [contact]
            assert not any(call.done() for call in large)
        assert [ids(page) for page in await asyncio.gather(*large)] == [[contact]] * 4


async def test_large_pages_that_find_no_turn_in_time_are_503(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, contacts_timeout=1.0, large_pages=1) as api:
        headers = await api.caller()
        async with holding(database_url, "LOCK TABLE contacts IN ACCESS EXCLUSIVE MODE"):
            await asyncio.gather(*(unavailable(api, headers, CONTACTS, **YEAR, per_page=501) for _ in range(7)))
        await listed(api, headers, per_page=501)


async def test_a_client_that_disconnects_frees_its_connection(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, contacts_pool_size=1, large_pages=1) as api, connect(database_url) as sql:
        headers = await api.caller()
        async with holding(database_url, "LOCK TABLE contacts IN ACCESS EXCLUSIVE MODE") as holder:
            call = asyncio.create_task(listed(api, headers, per_page=5000))
            await until_row(sql, WAITING, 1)
            call.cancel()
            await asyncio.wait({call})
            await holder.execute("ROLLBACK; BEGIN")
            await listed(api, headers, per_page=5000)


async def test_a_lost_connection_is_replaced_without_an_error(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START)
    for _ in range(3):
        assert ids(await listed(api, headers)) == [contact]
        await sql.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'contact-exports contacts'"
        )


async def test_a_missing_column_is_503_until_it_is_back_and_leaves_exports_unharmed(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START)
    await listed(api, headers)
    await sql.execute("ALTER TABLE contacts RENAME COLUMN location TO place")
    await unavailable(api, headers, CONTACTS, message=UNREADABLE, **YEAR)
    await unavailable(api, headers, f"{CONTACTS}/{contact}", message=UNREADABLE)
    assert await api.create(headers)
    await sql.execute("ALTER TABLE contacts RENAME COLUMN place TO location")
    assert ids(await listed(api, headers)) == [contact]
    await sql.execute("DROP TABLE comet_tokens")
    await unavailable(api, headers, CONTACTS, message=UNREADABLE, **YEAR, include_comet_tokens=1)
    assert ids(await listed(api, headers)) == [contact]


async def test_relations_are_looked_at_once_in_some_seconds_and_a_view_with_duplicates_is_noticed(
    api: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await api.caller()
    (contact,) = await add_seconds(sql, await space_of(sql, headers), 1)
    await sql.execute("INSERT INTO contact_emails (contact_id, email, last_seen_at) VALUES ($1, 'a@b.test', now())", contact)
    looked = 0

    async def counted(connection: Connection, extras: Extras) -> list[str]:
        nonlocal looked
        looked += 1
        return await extra_fragments(connection, extras)

    monkeypatch.setattr(contacts, "extra_fragments", counted)
    for _ in range(3):
        assert (await listed(api, headers, include_all_emails=1))["data"][0]["emails"] == ["a@b.test"]
    assert looked == 1
    await sql.execute(
        """ALTER TABLE contact_emails RENAME TO stored;
           CREATE VIEW contact_emails AS SELECT * FROM stored UNION ALL SELECT * FROM stored"""
    )
    later = time.monotonic() + contacts._RELATIONS_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert (await listed(api, headers, include_all_emails=1))["data"][0]["emails"] == ["a@b.test"]
    assert looked == 2


async def test_the_connections_are_few_and_read_only(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, contacts_pool_size=2) as api, connect(database_url) as sql:
        headers = await api.caller()
        await add_seconds(sql, await space_of(sql, headers), 50)
        await asyncio.gather(*(listed(api, headers, per_page=size) for size in range(1, 40)))
        assert 1 <= await sql.fetchval(SESSIONS) <= 2
        await sql.execute(
            "CREATE FUNCTION spoil() RETURNS text LANGUAGE sql AS 'DELETE FROM comet_tokens RETURNING token';"
            "ALTER TABLE contacts RENAME TO people;"
            "CREATE VIEW contacts AS SELECT id, space_id, created_at, email, spoil() AS name, phone, location, merged_into"
            " FROM people"
        )
        await unavailable(api, headers, CONTACTS, **YEAR)


async def test_a_value_that_cannot_be_read_is_500_with_a_request_id_and_without_the_value(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    (contact,) = await add(sql, await space_of(sql, headers), START, name="a secret")
    await sql.execute(
        "ALTER TABLE contacts RENAME TO people;"
        "CREATE VIEW contacts AS SELECT id, space_id, created_at, email, name::integer::text AS name, phone, location,"
        " merged_into FROM people"
    )
    for address, query in ((CONTACTS, YEAR), (f"{CONTACTS}/{contact}", {})):
        status, body = await fetched(api, headers, address, **query)
        assert (status, body["message"], list(body)) == (500, "Internal error.", ["message", "request_id"])


async def test_a_page_that_would_need_too_much_memory_ends_early_and_the_next_one_continues(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    space_id = await space_of(sql, headers)
    await add_wide_contacts(sql, space_id, 24)
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at) SELECT $1, '2024-02-01' FROM generate_series(1, 300)", space_id
    )
    rows = await sql.fetch("SELECT id FROM contacts WHERE space_id = $1 ORDER BY created_at DESC, id DESC", space_id)
    assert MAXIMUM_BYTES < 24_000_000
    pages = await all_pages(api, headers, per_page=5000)
    assert [len(page["data"]) for page in pages] == [201, 123]
    assert [contact for page in pages for contact in ids(page)] == [row["id"] for row in rows]
    back = [pages[-1]]
    while url := back[-1]["prev_page_url"]:
        back.append(await listed(api, headers, url))
    assert [contact for page in back[::-1] for contact in ids(page)] == [row["id"] for row in rows]

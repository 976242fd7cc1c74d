"""The call of a known key: one statement looks the key up and counts the call, and decides what both steps would decide."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from limits.aio.storage import MemoryStorage

from service.access import Access
from service.model import Scope
from service.postgres.access import AccessTables
from service.postgres.pool import Database
from service.postgres.rate_limits import Admission, PostgresWindows
from service.web import recent
from service.web.rate_limit_windows import LibraryWindows
from service.web.rate_limits import parse_limit
from tests.support.jobs import connect, end_session, holding, until_waited_for
from tests.support.web import BODY, EXPORTS, Site, SiteOptions, site

EXPORT = f"{EXPORTS}/1"
"""An export that does not exist: a call that is allowed gets status 404 and counts."""


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are decided by the database, not by the memory of the last second."""
    monkeypatch.setattr(recent, "_SECONDS", 0.0)


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site that allows three status calls per minute."""
    async with site(database_url, tmp_path, get_export="3/minute") as running:
        yield running


async def known(api: Site, space_id: int, *scopes: Scope) -> dict[str, str]:
    """Headers with a new key of a Space that has been verified by a call of another bucket."""
    headers = {"Authorization": f"Bearer {await api.callers.create_key(space_id, scopes or Scope)}"}
    assert (await api.client.get(EXPORTS, headers=headers)).status in (200, 403)
    return headers


async def hits(database: Database, bucket: str = "get-export") -> list[int]:
    """The number of hits of each window of a bucket."""
    return [
        row[0] for row in await sql(database, f"SELECT cardinality(hits) FROM rate_limit_windows WHERE key ~ '{bucket}'")
    ]


async def sql(database: Database, text: str) -> list[Any]:
    """Run a statement and return its rows."""
    async with database.connection() as connection:
        return list(await connection.fetch(text))


def uses(api: Site, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An entry for each use of a connection from now on, which is one statement."""
    used: list[None] = []
    take = api.database.connection

    def counted() -> AbstractAsyncContextManager[Any]:
        used.append(None)
        return take()

    monkeypatch.setattr(api.database, "connection", counted)
    return used


# Through the API -----------------------------------------------------------------------------------------------------


async def test_a_status_call_of_a_known_key_takes_two_statements(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    used = uses(api, monkeypatch)
    for remaining in ("2", "1", "0"):
        response = await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)
        assert (response.status, response.headers["X-RateLimit-Remaining"]) == (200, remaining)
    assert len(used) == 2 * 3


async def test_calls_of_known_keys_to_two_replicas_get_exactly_what_the_limit_allows(
    database_url: str, tmp_path: Path
) -> None:
    limit: SiteOptions = {"create_export": "5/minute"}
    async with site(database_url, tmp_path, **limit) as one, site(database_url, tmp_path, **limit) as two:
        space_id = await one.callers.create_space("a space", "UTC")
        keys = [await known(one, space_id), await known(one, space_id)]
        for headers in keys:
            assert (await two.client.get(EXPORTS, headers=headers)).status == 200
        calls = [(one, two)[i % 2].client.post(EXPORTS, json=BODY, headers=keys[i // 2 % 2]) for i in range(24)]
        responses = await asyncio.gather(*calls)
        assert await hits(one.database, "create-export") == [5]
    assert sorted(response.status for response in responses) == [202] * 5 + [429] * 19
    granted = [response.headers["X-RateLimit-Remaining"] for response in responses if response.status == 202]
    assert sorted(granted) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("stored", ["database", "memory"])
async def test_the_first_check_that_fails_decides_and_only_allowed_calls_count(
    database_url: str, tmp_path: Path, stored: str
) -> None:
    options: SiteOptions = {"get_export": "2/minute"}
    if stored == "memory":
        options["windows"] = LibraryWindows(MemoryStorage())
    async with site(database_url, tmp_path, **options) as api:
        space_id = await api.callers.create_space("a space", "UTC")
        reader, writer = await known(api, space_id), await known(api, space_id, Scope.EXPORTS_WRITE)

        async def call(headers: dict[str, str]) -> tuple[int, str | None]:
            response = await api.client.get(EXPORT, headers=headers)
            return response.status, response.headers.get("X-RateLimit-Remaining")

        assert await call(writer) == (403, "2")
        await sql(api.database, "UPDATE spaces SET subscription_active = false")
        assert [await call(reader), await call(writer)] == [(403, "2"), (403, "2")]
        await sql(api.database, "UPDATE spaces SET subscription_active = true")
        assert [await call(reader), await call(reader)] == [(404, "1"), (404, "0")]
        assert [await call(reader), await call(writer), await call(reader)] == [(429, "0"), (403, "0"), (429, "0")]
        await sql(api.database, "UPDATE spaces SET subscription_active = false")
        assert [await call(reader), await call(writer)] == [(403, "0"), (403, "0")]
        await sql(api.database, "UPDATE api_keys SET revoked_at = now()")
        assert [await call(reader), await call(writer)] == [(401, None), (401, None)]
        assert await hits(api.database) == ([2] if stored == "database" else [])


async def test_a_known_key_that_expires_is_refused_and_does_not_count(api: Site) -> None:
    headers = await known(api, await api.callers.create_space("a space", "UTC"))
    await sql(
        api.database, "UPDATE api_keys SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day'"
    )
    assert (await api.client.get(EXPORT, headers=headers)).status == 401
    assert await hits(api.database) == []


async def test_a_call_whose_connection_broke_unnoticed_is_admitted_on_another_one(api: Site, database_url: str) -> None:
    headers = await known(api, await api.callers.create_space("a space", "UTC"))
    async with api.database.connection() as connection:
        session = connection.get_server_pid()
    end_session(database_url, session)
    assert (await api.client.get(EXPORT, headers=headers)).status == 404
    assert await hits(api.database) == [1]


async def test_the_calls_of_a_space_that_wait_for_its_window_leave_connections_for_others(
    api: Site, database_url: str
) -> None:
    spaces = [await api.callers.create_space("a space", "UTC") for _ in range(2)]
    keys = [await known(api, spaces[0]) for _ in range(2)]
    other = await known(api, spaces[1])
    for headers in (keys[0], other):
        assert (await api.client.get(EXPORT, headers=headers)).status == 404
    lock = f"SELECT FROM rate_limit_windows WHERE key ~ 'get-export/{spaces[0]}/' FOR UPDATE"
    async with holding(database_url, lock) as holder, connect(database_url) as observer:
        waiting = [asyncio.create_task(api.client.get(EXPORT, headers=headers)) for headers in keys for _ in range(5)]
        await until_waited_for(observer, holder)
        async with asyncio.timeout(3):
            assert (await api.client.get(EXPORT, headers=other)).status == 404
    assert {response.status for response in await asyncio.gather(*waiting)} <= {404, 429}


# The statement -------------------------------------------------------------------------------------------------------


async def test_only_the_right_hash_the_scope_and_an_active_space_record_a_hit(database_url: str) -> None:
    async with Database(database_url, application_name="tests", size=1) as database:
        access = Access(AccessTables(database))
        space_id = await access.create_space("a space", "UTC")
        key = await access.create_key(space_id, [Scope.EXPORTS_READ])
        key_id, digest = key.split("_")[1], hashlib.sha256(key.encode()).digest()

        async def admit(key_id: str, digest: bytes, scope: Scope) -> Admission:
            return await PostgresWindows(database).admit(parse_limit("2/minute"), "a-bucket", key_id, digest, scope)

        assert await admit("0" * 16, digest, Scope.EXPORTS_READ) == Admission(None, None)
        for wrong in (await admit(key_id, bytes(32), Scope.EXPORTS_READ), await admit(key_id, digest, Scope.EXPORTS_WRITE)):
            assert (wrong.credential and wrong.credential.caller.space_id, wrong.window) == (space_id, None)
        assert await hits(database, "a-bucket") == []
        remaining = []
        for _ in range(3):
            admission = await admit(key_id, digest, Scope.EXPORTS_READ)
            assert admission.credential is not None
            remaining.append(admission.window and admission.window.remaining)
        assert remaining == [1, 0, None]
        granted, window = await PostgresWindows(database).hit(parse_limit("2/minute"), "a-bucket", str(space_id))
        assert (granted, window.remaining) == (False, 0)

"""Refusals that are known without the database do not ask it, and one caller leaves connections for the others."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from service.model import Scope
from service.postgres.access import AccessTables, Credential
from service.postgres.pool import Database
from service.postgres.shares import act_for
from service.web import recent, refusal_turns
from service.web.refusal_turns import RefusalTurns
from tests.support.waiting import until_true
from tests.support.web import EXPORTS, Site, site

UNKNOWN_KEY = {"Authorization": f"Bearer ce_{'0' * 16}_{'A' * 43}"}


@pytest.fixture
async def api(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site that allows one status call per minute and remembers refusals for the whole test."""
    monkeypatch.setattr(recent, "_SECONDS", 30.0)
    async with site(database_url, tmp_path, get_export="1/minute") as running:
        yield running


def without_database(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every call to the database fail the test."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr(api.database, "connection", fail)


async def test_a_key_that_was_just_refused_is_refused_without_the_database(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await api.client.get(f"{EXPORTS}/1", headers=UNKNOWN_KEY)).status == 401
    without_database(api, monkeypatch)
    assert (await api.client.get(f"{EXPORTS}/1", headers=UNKNOWN_KEY)).status == 401


async def test_a_full_bucket_is_refused_without_the_database(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await api.caller()
    assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 404
    first = await api.client.get(f"{EXPORTS}/1", headers=headers)
    without_database(api, monkeypatch)
    second = await api.client.get(f"{EXPORTS}/1", headers=headers)
    assert first.status == second.status == 429
    assert second.headers["Retry-After"] == first.headers["Retry-After"]
    assert second.headers["X-RateLimit-Remaining"] == "0"


async def test_a_missing_scope_is_refused_without_the_database(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await api.caller(Scope.EXPORTS_WRITE)
    assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 403
    without_database(api, monkeypatch)
    response = await api.client.get(f"{EXPORTS}/1", headers=headers)
    assert response.status == 403
    assert response.headers["X-RateLimit-Limit"] == "1"


async def test_a_refusal_counts_for_at_most_a_second(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path) as api:
        headers = await api.caller()
        (space_id,) = [row["id"] for row in await rows(api, "SELECT id FROM spaces")]
        await rows(api, f"UPDATE spaces SET subscription_active = false WHERE id = {space_id}")
        assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 403
        await rows(api, f"UPDATE spaces SET subscription_active = true WHERE id = {space_id}")
        await asyncio.sleep(1)
        assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 404


async def test_a_revoked_key_is_refused_at_once(api: Site) -> None:
    headers = await api.caller()
    assert (await api.client.get(EXPORTS, headers=headers)).status == 200
    await api.callers.revoke_key(headers["Authorization"].split("_")[1])
    assert (await api.client.get(EXPORTS, headers=headers)).status == 401


def test_at_most_4096_entries_are_remembered() -> None:
    known = recent.Recent[int, bool]()
    for number in range(5000):
        known.put(number, True)
    assert len(known._entries) == 4096
    assert known.get(4999)
    assert known.get(0) is None


async def test_one_caller_leaves_two_connections_of_the_pool_for_others(database_url: str) -> None:
    async with Database(database_url, application_name="tests", size=4) as database:

        async def hold(caller: int, seconds: float) -> None:
            act_for(caller)
            async with database.connection() as connection:
                await connection.execute(f"SELECT pg_sleep({seconds})")

        greedy = [asyncio.create_task(hold(1, 1.0)) for _ in range(8)]
        await asyncio.sleep(0.5)
        async with asyncio.timeout(0.9):
            await asyncio.gather(hold(2, 0.0), hold(2, 0.0))
        await asyncio.gather(*greedy)
        assert database._shares._turns == {}


# Turns ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def busy(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site that allows one single call for an export per minute."""
    async with site(database_url, tmp_path, get_export="1/minute") as running:
        yield running


async def call_with_an_unknown_key(api: Site) -> int:
    """Call with a key that no call had before; returns the status."""
    key = f"ce_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"
    async with api.client.get(f"{EXPORTS}/1", headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status


@asynccontextmanager
async def slow_lookups(api: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """Inside the block unknown keys are looked up for as long as the block lasts. Yields the number of lookups under way."""
    looked_up, enough, arrived = [0], asyncio.Event(), 0
    look_up, turn = AccessTables.live_credential, RefusalTurns.turn

    def counted(turns: RefusalTurns, request: web.Request) -> AbstractAsyncContextManager[None]:
        nonlocal arrived
        arrived += 1
        return turn(turns, request)

    async def slowly(tables: AccessTables, key_id: str) -> Credential | None:
        credential = await look_up(tables, key_id)
        if credential is None:
            looked_up[0] += 1
            await enough.wait()
        return credential

    with monkeypatch.context() as patched:
        patched.setattr(AccessTables, "live_credential", slowly)
        patched.setattr(RefusalTurns, "turn", counted)
        calls = [asyncio.create_task(call_with_an_unknown_key(api)) for _ in range(20)]
        await until_true(lambda: arrived == len(calls) and api.priority._requests == looked_up[0])
        try:
            yield looked_up
        finally:
            enough.set()
            assert set(await asyncio.gather(*calls)) == {401}


async def test_unknown_keys_use_two_connections_and_known_keys_do_not_wait_for_them(
    busy: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await busy.caller()
    assert (await busy.client.get(EXPORTS, headers=headers)).status == 200
    async with slow_lookups(busy, monkeypatch) as looked_up:
        assert (await busy.client.get(EXPORTS, headers=headers)).status == 200
        assert looked_up == [2]


async def test_a_key_that_was_never_verified_waits_for_a_turn_and_then_gets_503(
    busy: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await busy.caller()
    monkeypatch.setattr(refusal_turns, "_PATIENCE_SECONDS", 60.0)
    async with slow_lookups(busy, monkeypatch):
        monkeypatch.setattr(refusal_turns, "_PATIENCE_SECONDS", 0.2)
        assert (await busy.client.get(EXPORTS, headers=headers)).status == 503
    assert (await busy.client.get(EXPORTS, headers=headers)).status == 200


async def test_refusals_that_need_no_database_take_turns(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "_SECONDS", 30.0)
    async with site(database_url, tmp_path, get_export="1/minute") as api:
        headers = await api.caller()
        expected = [(headers, 429), (UNKNOWN_KEY, 401)]
        assert (await api.client.get(f"{EXPORTS}/1", headers=headers)).status == 404
        for sent, status in expected:
            assert (await api.client.get(f"{EXPORTS}/1", headers=sent)).status == status
        async with slow_lookups(api, monkeypatch):
            calls = [asyncio.create_task(api.client.get(f"{EXPORTS}/1", headers=sent)) for sent, _ in expected]
            assert (await api.client.get(EXPORTS, headers=headers)).status == 200
            assert not [call for call in calls if call.done()]
        assert [(await call).status for call in calls] == [status for _, status in expected]


async def test_a_revoked_key_needs_a_turn_again(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_SECONDS", 0.0)
    async with site(database_url, tmp_path) as api:
        headers = await api.caller()
        assert (await api.client.get(EXPORTS, headers=headers)).status == 200
        await api.callers.revoke_key(headers["Authorization"].split("_")[1])
        assert (await api.client.get(EXPORTS, headers=headers)).status == 401
        monkeypatch.setattr(refusal_turns, "_PATIENCE_SECONDS", 60.0)
        async with slow_lookups(api, monkeypatch) as looked_up:
            monkeypatch.setattr(refusal_turns, "_PATIENCE_SECONDS", 0.2)
            assert (await api.client.get(EXPORTS, headers=headers)).status == 503
            assert looked_up == [2]


async def rows(api: Site, statement: str) -> list[dict[str, int]]:
    """Run a statement and return its rows."""
    async with api.database.connection() as connection:
        return [dict(row) for row in await connection.fetch(statement)]

"""Refusals that are known without the database do not ask it, and one caller leaves connections for the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.model import Scope
from service.postgres.pool import Database
from service.postgres.shares import act_for
from service.web import recent
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


async def test_a_refusal_counts_for_at_most_a_second(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
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


async def rows(api: Site, statement: str) -> list[dict[str, int]]:
    """Run a statement and return its rows."""
    async with api.database.connection() as connection:
        return [dict(row) for row in await connection.fetch(statement)]

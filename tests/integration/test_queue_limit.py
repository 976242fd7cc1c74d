"""SPACE_QUEUE_LIMIT: a Space with that many queued exports gets 429 for further creations."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from service.web.rate_limits import Allowance, RateLimitBucket, Throttle
from tests.support.jobs import connect, holding, until_waited_for
from tests.support.web import BODY, EXPORTS, Site, site

LIMIT = 3


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site that allows three queued exports per Space."""
    async with site(database_url, tmp_path, queue_limit=LIMIT) as running:
        yield running


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for the test."""
    async with connect(database_url) as connection:
        yield connection


async def post(api: Site, headers: dict[str, str], **more: str) -> int:
    """Create an export; returns the status."""
    async with api.client.post(EXPORTS, json=BODY, headers=headers | more) as response:
        return response.status


async def test_a_creation_above_the_limit_is_429_with_a_message_and_queues_nothing(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    assert [await post(api, headers) for _ in range(LIMIT)] == [202] * LIMIT
    response = await api.client.post(EXPORTS, json=BODY, headers={**headers, "Accept": "application/problem+json"})
    problem = await response.json()
    message = "This Space already has 3 queued exports, the most that are allowed. Retry in 60 s."
    assert (response.status, response.headers["Retry-After"]) == (429, "60")
    assert (problem["status"], problem["message"], problem["detail"]) == (429, message, message)
    assert await sql.fetchval("SELECT count(*) FROM export_jobs") == LIMIT
    assert await post(api, await api.caller()) == 202, "another Space has a queue of its own"


async def test_an_export_that_runs_or_ended_leaves_room_for_another(api: Site) -> None:
    headers = await api.caller()
    for _ in range(LIMIT):
        await api.create(headers)
    await api.claim()
    last = await api.create(headers)
    assert await post(api, headers) == 429
    await api.client.delete(f"{EXPORTS}/{last}", headers=headers)
    assert [await post(api, headers) for _ in range(2)] == [202, 429]


async def test_of_many_creations_at_the_same_time_only_those_within_the_limit_succeed(
    api: Site, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    statuses = await asyncio.gather(*(post(api, headers) for _ in range(20)))
    assert sorted(statuses) == [202] * LIMIT + [429] * (20 - LIMIT)
    assert await sql.fetchval("SELECT count(*) FROM export_jobs") == LIMIT


async def test_a_creation_waits_for_another_that_may_fill_the_queue(
    api: Site, database_url: str, sql: asyncpg.Connection
) -> None:
    headers = await api.caller()
    for _ in range(LIMIT - 1):
        await api.create(headers)
    insert = f"""
        SELECT space_has_queue_room(space_id, {LIMIT}) FROM export_jobs;
        INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)
        SELECT space_id, start_date, end_date, timezone, window_from, window_to, 1 FROM export_jobs LIMIT 1"""
    async with holding(database_url, insert) as other:
        waiting = asyncio.create_task(post(api, headers))
        await until_waited_for(sql, other)
        await other.execute("COMMIT; BEGIN")
        assert await waiting == 429


async def test_an_idempotent_replay_needs_no_room(api: Site) -> None:
    headers = await api.caller()
    for number in range(LIMIT):
        assert await post(api, headers, **{"Idempotency-Key": f"key {number}"}) == 202
    again = await api.client.post(EXPORTS, json=BODY, headers={**headers, "Idempotency-Key": "key 0"})
    assert (again.status, again.headers["Idempotent-Replayed"]) == (202, "true")
    other = {**BODY, "include_all_emails": 1}
    reused = await api.client.post(EXPORTS, json=other, headers={**headers, "Idempotency-Key": "key 0"})
    assert reused.status == 422
    assert await post(api, headers, **{"Idempotency-Key": "a new key"}) == 429
    await api.claim()
    assert await post(api, headers, **{"Idempotency-Key": "a new key"}) == 202, "a refused key is free"


@pytest.mark.parametrize(("seconds", "running", "expected"), [(30, 0, "30"), (45.2, 2, "23"), (1, 1, "5"), (9000, 1, "300")])
async def test_retry_after_is_the_mean_duration_of_completed_exports_divided_by_those_that_run(
    api: Site, sql: asyncpg.Connection, seconds: float, running: int, expected: str
) -> None:
    headers = await api.caller()
    for _ in range(2):
        await api.create(headers)
        await api.complete(b"a file")
    await sql.execute(f"UPDATE export_jobs SET claimed_at = finished_at - interval '{seconds} s'")
    for _ in range(running):
        await api.create(headers)
        await api.claim()
    for _ in range(LIMIT):
        await api.create(headers)
    response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    assert (response.status, response.headers["Retry-After"]) == (429, expected)


async def test_a_creation_for_a_space_that_was_deleted_since_its_key_was_checked_is_401(
    api: Site, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await api.caller()
    hit = Throttle.hit

    async def delete_and_hit(throttle: Throttle, bucket: RateLimitBucket, space_id: int) -> Allowance:
        await sql.execute("DELETE FROM spaces")
        return await hit(throttle, bucket, space_id)

    monkeypatch.setattr(Throttle, "hit", delete_and_hit)
    assert await post(api, headers) == 401

"""Rate limits: exact under concurrency, shared by replicas, kept across restarts, and measured by the database's clock."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from limits.aio.storage import MemoryStorage
from limits.errors import StorageError

from service.errors import DatabaseUnavailable, RateLimited, RateLimitStorageUnusable, RateLimitsUnavailable
from service.model import Scope
from service.postgres.pool import Database
from service.postgres.rate_limits import PostgresWindows
from service.web.rate_limit_windows import LibraryWindows, open_windows
from service.web.rate_limits import RateLimitBucket, Throttle, parse_limit
from tests.support.web import BODY, EXPORTS, Site, site

SPACE = 7


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool like that of a replica."""
    async with Database(database_url, application_name="tests", size=5) as opened:
        yield opened


def throttle(database: Database, limit: str) -> Throttle:
    """A throttle on the database, with one limit for all buckets."""
    return Throttle(PostgresWindows(database), dict.fromkeys(RateLimitBucket, limit))


async def hits_stored(database: Database) -> list[int]:
    """The number of hits of each window."""
    async with database.connection() as connection:
        rows = await connection.fetch("SELECT cardinality(hits) FROM rate_limit_windows ORDER BY key")
    return [row[0] for row in rows]


# The windows ---------------------------------------------------------------------------------------------------------


async def taken(windows: PostgresWindows, limit: str = "2/minute", key: str = "key") -> bool:
    """Whether a hit was granted."""
    granted, _ = await windows.hit(parse_limit(limit), key)
    return granted


async def test_concurrent_hits_through_two_replicas_are_counted_exactly(database: Database, database_url: str) -> None:
    async with Database(database_url, application_name="another replica", size=5) as other:
        windows = [PostgresWindows(database), PostgresWindows(other)]
        granted = await asyncio.gather(*(taken(windows[i % 2], "10/minute") for i in range(40)))
    assert sum(granted) == 10
    assert await hits_stored(database) == [10]
    reset_time, remaining = await windows[0].stats(parse_limit("10/minute"), "key")
    assert remaining == 0
    assert 30 < reset_time - time.time() <= 60


async def test_hits_leave_the_window_one_by_one_and_are_removed_by_the_next_hit(database: Database) -> None:
    windows = PostgresWindows(database)
    assert await taken(windows)
    async with database.connection() as connection:
        await connection.execute("UPDATE rate_limit_windows SET hits = ARRAY[hits[1] - interval '59 seconds']")
    assert await taken(windows)
    assert not await taken(windows)
    async with asyncio.timeout(10):
        while not await taken(windows):
            await asyncio.sleep(0.05)
    assert not await taken(windows)
    assert await hits_stored(database) == [2]


HIGH = "150/minute"
"""A limit whose hits are merged."""


async def stored_calls(database: Database) -> list[int]:
    """The number of calls at each time of the only window."""
    async with database.connection() as connection:
        return list(await connection.fetchval("SELECT calls FROM rate_limit_windows"))


async def test_concurrent_hits_of_a_high_limit_are_counted_exactly_at_a_few_times(
    database: Database, database_url: str
) -> None:
    async with Database(database_url, application_name="another replica", size=5) as other:
        windows = [PostgresWindows(database), PostgresWindows(other)]
        hits = await asyncio.gather(*(windows[i % 2].hit(parse_limit(HIGH), "key") for i in range(200)))
    granted = [remaining for accepted, (_, remaining) in hits if accepted]
    assert sorted(granted) == list(range(150))
    calls = await stored_calls(database)
    assert sum(calls) == 150
    assert len(calls) < 50
    refused = next(window for accepted, window in hits if not accepted)
    for reset_time, remaining in (await windows[0].stats(parse_limit(HIGH), "key"), refused):
        assert remaining == 0
        assert 30 < reset_time - time.time() <= 61


async def test_hits_of_a_high_limit_leave_the_window_with_all_their_calls(database: Database) -> None:
    windows = PostgresWindows(database)
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO rate_limit_windows (key, hits, calls, expires_at) SELECT $1, ARRAY[now() - interval '61 s',"
            " now() - interval '59 s', now() - interval '10 s'], ARRAY[100, 70, 80], now() + interval '1 s'",
            parse_limit(HIGH).key_for("key") + "/merged",
        )
    assert not await taken(windows, HIGH)
    async with asyncio.timeout(10):
        while not await taken(windows, HIGH):
            await asyncio.sleep(0.05)
    assert sorted(await stored_calls(database)) == [1, 80]
    assert (await windows.stats(parse_limit(HIGH), "key")).remaining == 150 - 81


async def test_hits_of_an_earlier_release_are_in_another_window(database: Database) -> None:
    async with database.connection() as connection:
        await connection.execute(
            "INSERT INTO rate_limit_windows (key, hits, expires_at)"
            " SELECT $1, array_agg(now() - interval '1 ms' * n), now() + interval '1 m' FROM generate_series(1, 150) n",
            parse_limit(HIGH).key_for("key"),
        )
    assert await taken(PostgresWindows(database), HIGH)
    assert sorted(await hits_stored(database)) == [1, 150]


async def test_a_window_of_a_high_limit_stores_at_most_66_times(database: Database) -> None:
    windows = PostgresWindows(database)
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert await taken(windows, "100000/second")
    assert 2 < len(await stored_calls(database)) <= 66


async def test_a_new_pool_still_sees_the_hits(database_url: str) -> None:
    for expected in (True, True, True, False, False):
        async with Database(database_url, application_name="restarted", size=1) as database:
            assert await taken(PostgresWindows(database), "3/minute") is expected


async def test_only_expired_windows_are_pruned(database: Database) -> None:
    windows = PostgresWindows(database)
    for key in ("dead", "dying", "live"):
        await taken(windows, "1/minute", key)
    async with database.connection() as connection:
        await connection.execute("UPDATE rate_limit_windows SET expires_at = now() - interval '1 s' WHERE key !~ 'live'")
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("SELECT FROM rate_limit_windows WHERE key ~ 'dying' FOR UPDATE")
        assert await windows.prune() == 1
        await transaction.rollback()
    assert (await windows.prune(), await windows.prune()) == (1, 0)
    assert await hits_stored(database) == [1]
    assert not await taken(windows, "1/minute", "live")


async def test_without_a_database_every_hit_raises() -> None:
    async with Database("postgresql://nobody@/none?host=/nonexistent", application_name="tests", size=1) as database:
        windows = PostgresWindows(database)
        with pytest.raises(DatabaseUnavailable):
            await taken(windows)
        with pytest.raises(DatabaseUnavailable):
            await windows.stats(parse_limit("1/minute"), "key")


async def test_the_url_selects_where_windows_are(database: Database) -> None:
    for url, stored in (("async+memory://", []), ("async+postgres://", [1])):
        windows = open_windows(url, database)
        granted, (_, remaining) = await windows.hit(parse_limit("2/minute"), "key")
        assert (granted, remaining) == (True, 1)
        assert await windows.stats(parse_limit("2/minute"), "key") is not None
        assert (await windows.prune(), await hits_stored(database)) == (0, stored)


async def test_an_unusable_url_is_refused_with_the_missing_package(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in ("async+nothing://user:secret@host", "", "async+redis://user:secret@[broken"):
        with pytest.raises(RateLimitStorageUnusable) as caught:
            open_windows(url, database)
        assert "secret" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "coredis", None)
    with pytest.raises(RateLimitStorageUnusable, match="install the extra `redis`"):
        open_windows("async+redis://localhost:6379", database)


# The throttle --------------------------------------------------------------------------------------------------------


async def test_each_hit_returns_the_remaining_calls_and_a_peek_consumes_none(database: Database) -> None:
    limited = throttle(database, "2/minute")
    assert (await limited.peek(RateLimitBucket.GET_EXPORT, SPACE)).headers == {
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "2",
        "RateLimit-Policy": '"get-export";q=2;w=60',
        "RateLimit": '"get-export";r=2',
    }
    hits = [await limited.hit(RateLimitBucket.GET_EXPORT, SPACE) for _ in range(3)]
    assert hits[0].reset in (59, 60)
    assert [(hit.remaining, hit.granted) for hit in hits] == [(1, True), (0, True), (0, False)]
    assert hits[0].headers["RateLimit"] == f'"get-export";r=1;t={hits[0].reset}'
    assert (await limited.peek(RateLimitBucket.GET_EXPORT, SPACE)).remaining == 0
    with pytest.raises(RateLimited) as caught:
        hits[2].check()
    assert 59 <= caught.value.retry_after <= 60


async def test_spaces_and_buckets_do_not_share(database: Database) -> None:
    limited = throttle(database, "1/minute")
    for bucket in RateLimitBucket:
        for space_id in (SPACE, SPACE + 1):
            assert (await limited.hit(bucket, space_id)).granted
            assert not (await limited.hit(bucket, space_id)).granted


@pytest.mark.parametrize("hours", [-48, 48])
async def test_the_local_clock_has_no_influence(database: Database, monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    limited = throttle(database, "1/minute")
    assert (await limited.hit(RateLimitBucket.CREATE_EXPORT, SPACE)).granted
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
    refused = await limited.hit(RateLimitBucket.CREATE_EXPORT, SPACE)
    assert not refused.granted
    assert refused.reset is not None
    assert 50 <= refused.reset <= 60


@pytest.mark.parametrize("text", ["", "five", "5", "0/minute", "-1/minute", "5/fortnight"])
async def test_a_meaningless_limit_is_refused(database: Database, text: str) -> None:
    with pytest.raises(ValueError, match="limit"):
        throttle(database, text)


async def test_a_rate_limit_store_that_fails_or_hangs_allows_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(MemoryStorage):
        async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
            raise StorageError(ConnectionError("password=secret"))

    class Hanging(MemoryStorage):
        async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # never returns

    monkeypatch.setattr("service.web.rate_limits._CALL_TIMEOUT", timedelta(milliseconds=10))
    for storage in (Failing(), Hanging()):
        limited = Throttle(LibraryWindows(storage), dict.fromkeys(RateLimitBucket, "5/minute"))
        with pytest.raises(RateLimitsUnavailable) as caught:
            await limited.hit(RateLimitBucket.CREATE_EXPORT, SPACE)
        assert "secret" not in str(caught.value)


# Through the API -----------------------------------------------------------------------------------------------------


async def test_concurrent_requests_to_two_replicas_get_exactly_what_the_limit_allows(
    database_url: str, tmp_path: Path
) -> None:
    async with (
        site(database_url, tmp_path, create_export="5/minute") as one,
        site(database_url, tmp_path, create_export="5/minute") as two,
    ):
        headers = await one.caller()
        answers = await asyncio.gather(
            *((one, two)[i % 2].client.post(EXPORTS, json=BODY, headers=headers) for i in range(24))
        )
        async with one.database.connection() as connection:
            created = await connection.fetchval("SELECT count(*) FROM export_jobs")
    assert sorted(answer.status for answer in answers) == [202] * 5 + [429] * 19
    assert created == 5


async def test_a_call_after_the_announced_wait_succeeds(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="2/minute") as api:
        headers = await api.caller()
        await api.create(headers)
        await api.create(headers)
        async with api.database.connection() as connection:
            await connection.execute("UPDATE rate_limit_windows SET hits[1] = now() - interval '57 seconds'")
        refused = await api.client.post(EXPORTS, json=BODY, headers=headers)
        assert refused.status == 429
        assert refused.headers["RateLimit"] == f'"create-export";r=0;t={refused.headers["Retry-After"]}'
        assert refused.headers["RateLimit-Policy"] == '"create-export";q=2;w=60'
        assert refused.headers["X-RateLimit-Remaining"] == "0"
        assert "rate limit" in (await refused.json())["message"]
        await asyncio.sleep(int(refused.headers["Retry-After"]))
        await api.create(headers)


async def test_limits_hold_across_a_restart_of_the_service(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="2/minute") as api:
        headers = await api.caller()
        await api.create(headers)
        await api.create(headers)
    async with site(database_url, tmp_path, create_export="2/minute") as api:
        assert (await api.client.post(EXPORTS, json=BODY, headers=headers)).status == 429


async def remaining(api: Site, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """Status of the response and its number of remaining calls."""
    answer = await api.client.request(method, path, headers=headers, data=body)
    return answer.status, answer.headers["X-RateLimit-Remaining"]


async def test_invalid_calls_consume_the_limit_and_rejected_ones_do_not(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="5/minute", get_export="3/minute") as api:
        space_id = await api.callers.create_space("a space", "UTC")
        both, reader, writer = [
            {"Authorization": f"Bearer {await api.callers.create_key(space_id, scopes)}", "Content-Type": "application/json"}
            for scopes in (Scope, [Scope.EXPORTS_READ], [Scope.EXPORTS_WRITE])
        ]
        assert (await api.client.post(EXPORTS, headers={"Authorization": "Bearer nobody"})).status == 401
        assert await remaining(api, "POST", EXPORTS, reader) == (403, "5")
        assert await remaining(api, "POST", EXPORTS, {**both, "Content-Type": "text/plain"}) == (415, "4")
        assert await remaining(api, "POST", EXPORTS, both, b"x" * 70_000) == (413, "3")
        assert await remaining(api, "POST", EXPORTS, both, b"{") == (400, "2")
        assert await remaining(api, "POST", EXPORTS, both, b"{}") == (422, "1")
        assert await remaining(api, "POST", EXPORTS, reader) == (403, "1")
        assert await remaining(api, "GET", f"{EXPORTS}/1", both) == (404, "2")
        assert await remaining(api, "GET", f"{EXPORTS}/x", both) == (404, "1")
        assert await remaining(api, "GET", f"{EXPORTS}/1", writer) == (403, "1")
        assert await remaining(api, "HEAD", f"{EXPORTS}/1", both) == (404, "0")
        for _ in range(3):
            assert await remaining(api, "GET", f"{EXPORTS}/1", both) == (429, "0")
        assert await remaining(api, "GET", f"{EXPORTS}/1", writer) == (403, "0")
        assert (await api.client.put(EXPORTS, headers=both)).status == 405
        assert (await remaining(api, "POST", EXPORTS, both, b"{}")) == (422, "0")
        assert await hits_stored(api.database) == [5, 3]


async def test_limits_can_be_kept_in_memory(database_url: str, tmp_path: Path) -> None:
    windows = LibraryWindows(MemoryStorage())
    async with site(database_url, tmp_path, create_export="1/minute", windows=windows) as api:
        headers = await api.caller()
        await api.create(headers)
        refused = await api.client.post(EXPORTS, json=BODY, headers=headers)
        assert (refused.status, refused.headers["Retry-After"] in ("59", "60")) == (429, True)
        assert await hits_stored(api.database) == []

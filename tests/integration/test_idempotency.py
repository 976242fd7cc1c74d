"""Idempotency keys: repeating a create request creates no second export."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg

from service.postgres.export_jobs import ExportJobs
from tests.support.jobs import connect, holding, release, until_waited_for
from tests.support.web import BODY, EXPORTS, Site, site


async def post(api: Site, headers: dict[str, str], key: str, **body: Any) -> tuple[int, dict[str, Any], bool]:
    """Status, body, and whether the response is marked as replayed."""
    answer = await api.client.post(EXPORTS, json={**BODY, **body}, headers={**headers, "Idempotency-Key": key})
    return answer.status, await answer.json(), answer.headers.get("Idempotent-Replayed") == "true"


async def exports(sql: asyncpg.Connection) -> int:
    """The number of exports."""
    return int(await sql.fetchval("SELECT count(*) FROM export_jobs"))


async def test_a_repeated_request_gets_the_first_response_and_creates_no_export(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    status, body, replayed = await post(api, headers, "a key")
    assert (status, list(body), replayed) == (202, ["export_id", "status"], False)
    assert await post(api, headers, "a key") == (202, body, True)
    await api.claim()
    assert await post(api, headers, "a key") == (202, body, True)
    await api.client.delete(f"{EXPORTS}/{body['export_id']}", headers=headers)
    assert await post(api, headers, "a key") == (202, body, True)
    assert await exports(sql) == 1


async def test_a_replay_has_the_same_location_header(api: Site) -> None:
    headers = {**await api.caller(), "Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}
    first, again = [await api.client.post(EXPORTS, json=BODY, headers=headers) for _ in range(2)]
    assert await first.read() == await again.read()
    for name in ("Location", "Retry-After"):
        assert first.headers[name] == again.headers[name]
    assert ("Idempotent-Replayed" in first.headers, again.headers["Idempotent-Replayed"]) == (False, "true")


async def test_fifty_at_the_same_time_make_one_export(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    answers = await asyncio.gather(*(post(api, headers, "a key") for _ in range(50)))
    assert {status for status, _, _ in answers} == {202}
    assert len({body["export_id"] for _, body, _ in answers}) == 1
    assert sorted(replayed for _, _, replayed in answers) == [False] + [True] * 49
    assert await exports(sql) == 1


async def test_a_key_of_a_rolled_back_transaction_is_free(api: Site, database_url: str) -> None:
    headers = await api.caller()
    other = await api.create(headers)
    insert = "INSERT INTO idempotency_keys (space_id, key, export_id) SELECT space_id, 'a key', id FROM export_jobs"
    async with holding(database_url, insert) as holder, connect(database_url) as sql:
        waiting = asyncio.create_task(post(api, headers, "a key"))
        await until_waited_for(sql, holder)
        await release(holder)
        status, body, replayed = await waiting
    assert (status, replayed) == (202, False)
    assert body["export_id"] > other


async def test_the_same_key_for_another_request_is_422(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    await post(api, headers, "a key")
    for other in ({"include_all_emails": 1}, {"include_comet_tokens": 1}, {"end_date": "2024-01-16 00:00:00"}):
        status, body, replayed = await post(api, headers, "a key", **other)
        assert (status, list(body["errors"]), replayed) == (422, ["Idempotency-Key"], False), other
    assert await exports(sql) == 1
    assert (await post(api, headers, "a key", include_all_emails="0", unknown=1))[2]


async def test_the_same_key_in_two_spaces_creates_two_exports(api: Site) -> None:
    one, other = await api.caller(), await api.caller()
    first, second = await post(api, one, "a key"), await post(api, other, "a key")
    assert first[1]["export_id"] != second[1]["export_id"]
    assert not second[2]


async def test_a_key_can_be_reused_after_24_hours(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    first = await post(api, headers, "a key")
    await sql.execute("UPDATE idempotency_keys SET created_at = now() - interval '23 hours 59 minutes'")
    assert (await post(api, headers, "a key"))[2]
    await sql.execute("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")
    status, body, replayed = await post(api, headers, "a key", include_all_emails=1)
    assert (status, replayed) == (202, False)
    assert body["export_id"] > first[1]["export_id"]
    assert await post(api, headers, "a key", include_all_emails=1) == (202, body, True)


async def test_only_keys_older_than_24_hours_are_pruned(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    for key in ("old", "young"):
        await post(api, headers, key)
    await sql.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'old'")
    assert await ExportJobs(api.database).prune_idempotency_keys() == 1
    assert [row["key"] for row in await sql.fetch("SELECT key FROM idempotency_keys")] == ["young"]
    assert await ExportJobs(api.database).prune_idempotency_keys() == 0


async def test_a_quoted_key_equals_the_bare_one(api: Site) -> None:
    headers = await api.caller()
    for first, again in (
        ("abc", '"abc"'),
        ('"a \\"b\\" \\\\c"', '"a \\"b\\" \\\\c"'),
        ("a b", '"a b"'),
        ("x" * 255, f'"{"x" * 255}"'),
    ):
        body = (await post(api, headers, first))[1]
        assert await post(api, headers, again) == (202, body, True), first


async def test_an_invalid_key_is_422_together_with_the_other_errors(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    for key in ("", '""', "x" * 256, f'"{"x" * 256}"', '"abc', '"a"b"', '"a";p=1', "ä", '"a\\b"'):
        answer = await api.client.post(EXPORTS, json=BODY, headers={**headers, "Idempotency-Key": key})
        assert (answer.status, list((await answer.json())["errors"])) == (422, ["Idempotency-Key"]), key
    twice = [*headers.items(), ("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    answer = await api.client.post(EXPORTS, json={"start_date": "x"}, headers=twice)
    assert list((await answer.json())["errors"]) == ["start_date", "end_date", "Idempotency-Key"]
    assert await exports(sql) == 0


async def test_a_replay_counts_towards_the_rate_limit(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="2/minute") as api:
        headers = await api.caller()
        assert [(await post(api, headers, "a key"))[0] for _ in range(3)] == [202, 202, 429]


async def test_without_a_key_every_request_creates_an_export(api: Site, sql: asyncpg.Connection) -> None:
    headers = await api.caller()
    assert await api.create(headers) != await api.create(headers)
    assert await sql.fetchval("SELECT count(*) FROM idempotency_keys") == 0

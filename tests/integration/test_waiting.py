"""Requests that wait for the end of an export (`Prefer: wait=N`), with the real application on a real socket."""

import asyncio
import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from yarl import URL

from service import events
from service.exports import priority as scheduling
from service.exports import use_cases, waiting
from service.failures import SourceData, StorageUnavailable
from service.model import Claim, ExportStatus, Scope
from tests.support.jobs import LEASE
from tests.support.waiting import until_true
from tests.support.web import BODY, EXPORTS, Site, SiteOptions, site

PATIENT = {"Prefer": "wait=30"}
NEVER = 3600.0


def get(api: Site, headers: dict[str, str], export_id: int, **more: str) -> "asyncio.Task[ClientResponse]":
    """Start a status call."""
    return asyncio.ensure_future(api.client.get(f"{EXPORTS}/{export_id}", headers={**headers, **more}))


async def until_waiting(api: Site, count: int = 1) -> None:
    """Return when so many requests wait."""
    await until_true(lambda: len(api.waiters) == count)


async def body_of(call: "asyncio.Task[ClientResponse]") -> dict[str, Any]:
    """The body of a response, which must come long before the wait is over."""
    started = time.monotonic()
    response = await call
    assert time.monotonic() - started < 20
    body = await response.json()
    assert response.status in (200, 202), body
    return dict(body)


async def complete(api: Site) -> Claim:
    """Complete the queued export like the runner of this process."""
    claim = await api.complete(b"file")
    events.emit(events.ExportCompleted(claim, 3, 4, 0.1))
    return claim


# The status call -----------------------------------------------------------------------------------------------------


async def test_a_status_call_waits_until_the_export_ends(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    call = get(api, headers, export_id, **PATIENT)
    await until_waiting(api)
    await complete(api)
    body = await body_of(call)
    assert (body["status"], body["row_count"]) == ("completed", 3)
    assert (await api.client.get(URL(body["download_url"], encoded=True).relative())).status == 200
    assert call.result().headers["Preference-Applied"] == "wait=30"
    assert "Retry-After" not in call.result().headers
    assert len(api.waiters) == 0


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_status_call_that_waits_responds_when_the_export(api: Site, end: str) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    claim = await api.claim()
    call = get(api, headers, export_id, **PATIENT)
    await until_waiting(api)
    if end == "failed":
        await api.claims.end_in_error(claim, SourceData(), pause=LEASE)
        events.emit(events.ExportFailed(export_id, claim.claim_id, "source_data", None))
    else:
        await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    assert (await body_of(call))["status"] == end


async def test_events_that_end_no_export_or_another_one_wake_nobody(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    claim = await api.claim()
    other = await api.create(headers)
    call = get(api, headers, export_id, **PATIENT)
    await until_waiting(api)
    for event in (
        events.ExportQueued(export_id, claim.space_id),
        events.ExportClaimed(claim),
        events.AttemptFailed(claim, "storage_unavailable", None),
        events.ExportHandedBack(claim),
        events.ExportRescued(export_id, claim.claim_id, "a worker"),
        events.ExportCancelled(other, claim.space_id, ExportStatus.QUEUED, ExportStatus.CANCELLED),
        events.ExportsForgotten(1),
    ):
        events.emit(event)
    await api.waiters.poll()
    await asyncio.sleep(0.1)
    assert not call.done()
    await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    assert (await body_of(call))["status"] == "cancelled"


async def test_a_wait_ends_after_its_seconds_and_the_response_says_to_poll(api: Site) -> None:
    headers = await api.caller()
    started = time.monotonic()
    response = await get(api, headers, await api.create(headers), Prefer="wait=1")
    assert time.monotonic() - started >= 1
    assert (await response.json())["status"] == "queued"
    assert (response.headers["Preference-Applied"], response.headers["Retry-After"]) == ("wait=1", "2")


async def test_wait_0_returns_at_once_and_is_named(api: Site) -> None:
    headers = await api.caller()
    response = await get(api, headers, await api.create(headers), Prefer="wait=0")
    assert ((await response.json())["status"], response.headers["Preference-Applied"]) == ("queued", "wait=0")


async def test_more_than_30_seconds_count_as_30(api: Site) -> None:
    headers = await api.caller()
    call = get(api, headers, await api.create(headers), Prefer="respond-async, wait=999999")
    await until_waiting(api)
    await complete(api)
    await body_of(call)
    assert call.result().headers["Preference-Applied"] == "wait=30"


@pytest.mark.parametrize("value", ["wait=-1", "wait=abc", "wait=1.5", "wait", "return=minimal"])
async def test_a_preference_that_is_not_a_whole_number_of_seconds_is_ignored(api: Site, value: str) -> None:
    headers = await api.caller()
    response = await get(api, headers, await api.create(headers), Prefer=value)
    assert (response.status, (await response.json())["status"]) == (200, "queued")
    assert "Preference-Applied" not in response.headers


async def test_an_export_that_has_ended_is_shown_at_once(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    await complete(api)
    call = get(api, headers, export_id, **PATIENT)
    assert (await body_of(call))["status"] == "completed"
    assert call.result().headers["Preference-Applied"] == "wait=30"


async def test_an_unknown_export_and_one_of_another_space_are_404_at_once(api: Site) -> None:
    headers, other = await api.caller(), await api.caller()
    for export_id in (await api.create(other), 2**62):
        assert (await get(api, headers, export_id, **PATIENT)).status == 404
    assert len(api.waiters) == 0


async def test_an_end_between_the_reads_and_the_registration_is_not_missed(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    wait = waiting.Waiters.wait

    async def wait_while_it_ends(self: waiting.Waiters, space_id: int, export: int, how: Any, read: Any) -> Any:
        async def read_then_end() -> Any:
            job = await read()
            if job.status.pending:
                await complete(api)
            return job

        return await wait(self, space_id, export, how, read_then_end)

    monkeypatch.setattr(waiting.Waiters, "wait", wait_while_it_ends)
    assert (await body_of(get(api, headers, export_id, **PATIENT)))["status"] == "completed"


# Creation ------------------------------------------------------------------------------------------------------------


def post(api: Site, headers: dict[str, str], **more: str) -> "asyncio.Task[ClientResponse]":
    """Start a creation."""
    return asyncio.ensure_future(api.client.post(EXPORTS, json=BODY, headers={**headers, **more}))


async def test_a_creation_that_waits_responds_with_the_status(api: Site) -> None:
    headers = await api.caller()
    call = post(api, headers, **PATIENT)
    await until_waiting(api)
    await complete(api)
    body, response = await body_of(call), call.result()
    assert (response.status, list(body)[:2], body["status"]) == (202, ["export_id", "status"], "completed")
    assert response.headers["Location"] == f"{EXPORTS}/{body['export_id']}"
    assert response.headers["Preference-Applied"] == "wait=30"
    status = await (await get(api, headers, body["export_id"])).json()
    assert list(status) == list(body)


async def test_a_creation_that_waited_in_vain_shows_the_state(api: Site) -> None:
    headers = await api.caller()
    for value in ("wait=0", "wait=1"):
        call = post(api, headers, Prefer=value)
        body, response = await body_of(call), call.result()
        assert (response.status, body["status"], "created_at" in body) == (202, "queued", True)
        assert (response.headers["Preference-Applied"], response.headers["Retry-After"]) == (value, "2")


async def test_without_the_scope_to_read_exports_a_creation_ignores_the_preference(api: Site) -> None:
    headers = await api.caller(Scope.EXPORTS_WRITE)
    call = post(api, headers, **PATIENT)
    body, response = await body_of(call), call.result()
    assert (response.status, list(body), body["status"]) == (202, ["export_id", "status"], "queued")
    assert "Preference-Applied" not in response.headers
    assert "Retry-After" in response.headers


async def test_a_replay_without_the_preference_is_the_first_202_and_with_it_shows_the_current_state(api: Site) -> None:
    headers = {**await api.caller(), "Idempotency-Key": "a key"}
    first = await (await post(api, headers)).read()
    waited = post(api, headers, **PATIENT)
    await until_waiting(api)
    await complete(api)
    assert (await body_of(waited))["status"] == "completed"
    assert waited.result().headers["Idempotent-Replayed"] == "true"
    again = post(api, headers, **PATIENT)
    assert (await body_of(again))["status"] == "completed"
    unchanged = await post(api, headers)
    assert (unchanged.status, await unchanged.read()) == (202, first)
    assert "Preference-Applied" not in unchanged.headers


async def test_a_status_that_cannot_be_read_does_not_hide_that_the_export_was_created(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise StorageUnavailable

    monkeypatch.setattr(api.store, "link", refused)
    call = post(api, await api.caller(), **PATIENT)
    await until_waiting(api)
    await complete(api)
    body, response = await body_of(call), call.result()
    assert (response.status, list(body), body["status"]) == (202, ["export_id", "status"], "queued")
    assert "Preference-Applied" not in response.headers


async def test_a_malformed_host_is_refused_before_the_export_is_created(api: Site) -> None:
    key, body = (await api.caller())["Authorization"], json.dumps(BODY).encode()
    head = f"POST {EXPORTS} HTTP/1.1\nHost: a b\nAuthorization: {key}\nPrefer: wait=5\nContent-Length: {len(body)}"
    assert (await api.send(head, body)).status == 400
    async with api.database.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 0


# Many waiters, and waiters that leave --------------------------------------------------------------------------------


async def test_fifty_waiters_on_one_export_all_get_its_end_by_one_event(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    calls = [get(api, headers, export_id, **PATIENT) for _ in range(50)]
    await until_waiting(api, 50)
    await complete(api)
    assert {(await body_of(call))["status"] for call in calls} == {"completed"}
    assert len(api.waiters) == 0


async def test_one_poll_finds_the_ends_of_all_exports_that_run_elsewhere(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = await api.caller()
    export_ids = [await api.create(headers) for _ in range(3)]
    calls = [get(api, headers, export_id, **PATIENT) for export_id in export_ids * 2]
    await until_waiting(api, 6)
    for _ in export_ids[:2]:
        await api.complete(b"file")
    statements: list[str] = []
    fetch = api.database.fetch

    async def counted(name: str, *arguments: Any, **more: Any) -> Any:
        statements.append(name)
        return await fetch(name, *arguments, **more)

    monkeypatch.setattr(api.database, "fetch", counted)
    await api.waiters.poll()
    assert statements == ["ended_exports"]
    done = [call for call in calls if (await asyncio.wait({call}, timeout=2))[0]]
    assert [(await body_of(call))["status"] for call in done] == ["completed"] * 4
    await api.client.delete(f"{EXPORTS}/{export_ids[2]}", headers=headers)
    await asyncio.gather(*calls)
    statements.clear()
    await api.waiters.poll()
    assert statements == [], "without waiters nothing is polled"


@pytest.mark.parametrize("bound", [SiteOptions(waiters_per_space=2), SiteOptions(waiters_per_process=2)])
async def test_beyond_the_bound_the_response_comes_at_once_and_does_not_name_the_preference(
    database_url: str, tmp_path: Path, bound: SiteOptions
) -> None:
    async with site(database_url, tmp_path, **bound) as api:
        headers, other = await api.caller(), await api.caller()
        export_id = await api.create(headers)
        calls = [get(api, headers, export_id, **PATIENT) for _ in range(2)]
        await until_waiting(api, 2)
        refused = get(api, headers, export_id, **PATIENT)
        assert (await body_of(refused))["status"] == "queued"
        assert "Preference-Applied" not in refused.result().headers
        assert "Retry-After" in refused.result().headers
        elsewhere = get(api, other, await api.create(other), Prefer="wait=1")
        await body_of(elsewhere)
        assert ("Preference-Applied" in elsewhere.result().headers) == ("waiters_per_space" in bound)
        await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
        assert [(await body_of(call))["status"] for call in calls] == ["cancelled"] * 2


async def test_a_waiter_whose_client_disconnected_leaves_at_the_next_poll(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    _, writer = await api.connect()
    head = f"GET {EXPORTS}/{export_id} HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
    writer.write(f"{head}Prefer: wait=30\r\n\r\n".encode())
    staying = get(api, headers, export_id, **PATIENT)
    await until_waiting(api, 2)
    writer.transport.abort()

    async def left() -> bool:
        await api.waiters.poll()
        return len(api.waiters) == 1

    async with asyncio.timeout(20):
        while not await left():
            await asyncio.sleep(0.02)
    await complete(api)
    assert (await body_of(staying))["status"] == "completed"


async def test_a_stop_ends_all_waits_at_once_and_lets_none_begin(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    calls = [get(api, headers, export_id, **PATIENT) for _ in range(3)]
    await until_waiting(api, 3)
    api.waiters.stop()
    calls.append(get(api, headers, export_id, **PATIENT))
    for call in calls:
        assert (await body_of(call))["status"] == "queued"
        assert "Preference-Applied" not in call.result().headers


# Priority ------------------------------------------------------------------------------------------------------------


async def test_a_waiter_does_not_delay_a_batch_of_an_export(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    headers = await api.caller()
    export_id = await api.create(headers)
    call = get(api, headers, export_id, **PATIENT)
    await until_true(lambda: len(api.waiters) == 1)
    async with asyncio.timeout(20):
        await api.priority.before_batch()
    assert not call.done()
    await complete(api)
    await body_of(call)


async def test_an_unfinished_body_does_not_delay_a_batch_of_an_export(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    headers = await api.caller()
    reader, writer = await api.connect()
    body = json.dumps(BODY).encode()
    head = f"POST {EXPORTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {headers['Authorization']}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])

    async def limited() -> bool:
        async with api.database.connection() as connection:
            return bool(await connection.fetchval("SELECT count(*) FROM rate_limit_windows"))

    async with asyncio.timeout(20):
        while not await limited():  # the last check before the handler
            await asyncio.sleep(0.02)
        await api.priority.before_batch()
    writer.write(body[-1:])
    assert b" 202 " in await reader.readline()
    writer.close()


async def test_a_store_that_does_not_respond_to_a_deletion_does_not_delay_a_batch_of_an_export(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_LONGEST_WAIT", NEVER)
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(b"file")
    monkeypatch.setattr(use_cases, "_DELETE_TIMEOUT", timedelta(seconds=NEVER))
    asked, responding = asyncio.Event(), asyncio.Event()

    async def delete(_: str) -> None:
        asked.set()
        await responding.wait()

    monkeypatch.setattr(api.store, "delete", delete)
    call = asyncio.ensure_future(api.client.delete(f"{EXPORTS}/{export_id}", headers=headers))
    async with asyncio.timeout(20):
        await asked.wait()
        await api.priority.before_batch()
    assert not call.done()
    responding.set()
    assert (await (await call).json())["status"] == "expired"

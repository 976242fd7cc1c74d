"""The HTTP contract, row by row, tested with the real application on a real socket, a real database and a real directory."""

import asyncio
import gzip
import json
import logging
import re
import zlib
from collections.abc import AsyncIterator, MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import structlog
from structlog.testing import capture_logs
from yarl import URL

from service.errors import Starting
from service.failures import ExportFailure, SourceUnavailable, StorageFull, StorageUnavailable
from service.model import Scope
from service.web.routes import ROUTES
from tests.support import docs
from tests.support.web import BODY, EXPORTS, Site, site

PENDING = "Export is being processed. Please check back in a few minutes."
EXPORT_NOT_FOUND = b'{"message":"Export not found."}'
PROTECTED = [
    (route.method, re.sub(r"\{[^}]*\}", "1", route.path)) for route in ROUTES if route.scope is not None
]  # method and address of every call that needs a key
RATE_HEADERS = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "RateLimit-Policy", "RateLimit")


def json_body(body: dict[str, Any] | None = None) -> bytes:
    """The body as JSON; the valid one by default."""
    return json.dumps(body or BODY).encode()


def request_lines(logged: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    """The log lines about requests."""
    return [line for line in logged if line["event"] == "request"]


async def until_logged(logged: list[MutableMapping[str, Any]], count: int = 1) -> None:
    """Wait until `count` requests have been logged."""
    async with asyncio.timeout(10):
        while len(request_lines(logged)) < count:
            await asyncio.sleep(0.01)


# Creating an export --------------------------------------------------------------------------------------------------


async def test_a_new_export_returns_202_with_its_id_and_the_path_of_its_status(api: Site) -> None:
    headers = await api.caller()
    response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    body = await response.json()
    assert (response.status, response.content_type) == (202, "application/json")
    assert list(body.items()) == [("export_id", body["export_id"]), ("status", "queued")]
    assert isinstance(body["export_id"], int)
    assert response.headers["Location"] == f"/public-api/v1/contacts/exports/{body['export_id']}"
    assert int(response.headers["Retry-After"]) >= 2
    assert response.headers["Cache-Control"] == "no-store"
    assert (await api.client.get(response.headers["Location"], headers=headers)).status == 200


async def test_the_parameters_of_the_request_are_stored(api: Site) -> None:
    headers = {**await api.caller(zone="Europe/Paris"), "X-Request-Id": "from.the-client_1"}
    body = {**BODY, "include_comet_tokens": 1, "include_all_emails": "0", "unknown": [1]}
    response = await api.client.post(EXPORTS, json=body, headers=headers)
    async with api.database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM export_jobs")
    assert row is not None
    assert row["id"] == (await response.json())["export_id"]
    assert (row["start_date"], row["end_date"]) == (datetime(2024, 1, 15), datetime(2024, 1, 15, 23, 59, 59))
    assert (row["window_from"], row["timezone"]) == (datetime(2024, 1, 14, 23, tzinfo=UTC), "Europe/Paris")
    assert row["extras"] == ["comet_tokens"]
    assert row["request_id"] == "from.the-client_1"


async def test_json_content_types_and_a_missing_content_type_are_accepted(api: Site) -> None:
    values = [
        "",
        "Content-Type:",
        "Content-Type: application/json",
        "Content-Type: Application/JSON ; Charset=UTF-8",
        'Content-Type: application/json; charset="utf-8"',
        "Content-Type: application/vnd.api+json",
        "Content-Type: application/json; profile=x",
    ]
    key, body = (await api.caller())["Authorization"], json_body()
    for content_type in values:
        head = f"POST {EXPORTS} HTTP/1.1\nHost: x\nAuthorization: {key}\nContent-Length: {len(body)}\n{content_type}"
        assert (await api.send(head, body)).status == 202, content_type


async def test_any_other_content_type_is_415(api: Site) -> None:
    values = [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "json",
    ]
    caller = await api.caller()
    for content_type in values:
        headers = {**caller, "Content-Type": content_type}
        response = await api.client.post(EXPORTS, data=b"not JSON either", headers=headers)
        assert response.status == 415, content_type
        assert (await response.json())["message"]


async def test_a_body_that_is_not_a_json_object_is_400(api: Site) -> None:
    values = [
        b"",
        b"{",
        b"start_date=2024-01-15",
        b"[]",
        b'"text"',
        b"null",
        b"1",
        b"{} {}",
        b'{"start_date": NaN}',
        b'{"start_date": Infinity}',
        b"{'start_date': 1}",
        b'{"start_date": "\xff"}',
        b'{"start_date": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        json.dumps(BODY).encode("utf-16"),
        b"[" * 5000,
    ]
    headers = {**await api.caller(), "Content-Type": "application/json"}
    for body in values:
        response = await api.client.post(EXPORTS, data=body, headers=headers)
        assert response.status == 400, body[:20]
        assert await response.json() == {"message": "The body must be a JSON object in UTF-8."}


async def test_the_last_of_two_equal_keys_counts(api: Site) -> None:
    body = json_body()[:-1] + b', "include_all_emails": "x", "include_all_emails": 1}'
    headers = {**await api.caller(), "Content-Type": "application/json"}
    assert (await api.client.post(EXPORTS, data=body, headers=headers)).status == 202


async def test_a_compressed_body_is_415(api: Site) -> None:
    headers = {**await api.caller(), "Content-Type": "application/json"}
    for encoding, data, status in (
        ("gzip", gzip.compress(json_body()), 415),
        ("gzip", b"no", 415),
        ("identity", json_body(), 202),
    ):
        response = await api.client.post(EXPORTS, data=data, headers={**headers, "Content-Encoding": encoding})
        assert (response.status, response.content_type) == (status, "application/json")


async def test_a_body_of_64_kib_is_accepted_and_one_more_byte_is_413(api: Site) -> None:
    headers = {**await api.caller(), "Content-Type": "application/json"}
    largest = json_body().ljust(64 * 1024)
    assert (await api.client.post(EXPORTS, data=largest, headers=headers)).status == 202
    response = await api.client.post(EXPORTS, data=largest + b" ", headers=headers)
    assert response.status == 413
    assert await response.json() == {"message": "The body must not be larger than 64 KiB."}


async def test_a_large_chunked_body_is_413(api: Site) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 4096

    headers = {**await api.caller(), "Content-Type": "application/json"}
    response = await api.client.post(EXPORTS, data=chunks(), headers=headers)
    assert (response.status, response.content_type) == (413, "application/json")


async def test_malformed_chunks_are_400(api: Site) -> None:
    key = (await api.caller())["Authorization"]
    head = f"POST {EXPORTS} HTTP/1.1\nHost: x\nAuthorization: {key}\nTransfer-Encoding: chunked"
    with capture_logs() as logged:
        response = await api.send(head, b'5\r\n{"a":\r\nnonsense\r\n')
    assert response.status == 400
    assert not [line for line in logged if line["event"] == "request_failed"]


async def test_422_names_all_invalid_parameters_at_once(api: Site) -> None:
    body = {"start_date": "2024-02-30 00:00:00", "include_comet_tokens": None, "include_all_emails": 1.0}
    response = await api.client.post(EXPORTS, json=body, headers=await api.caller())
    invalid = await response.json()
    assert response.status == 422
    assert list(invalid) == ["message", "errors"]
    assert list(invalid["errors"]) == ["start_date", "end_date", "include_comet_tokens", "include_all_emails"]
    assert all(message in invalid["message"] for messages in invalid["errors"].values() for message in messages)


async def test_a_date_outside_the_years_of_utc_is_422_and_names_the_field(api: Site) -> None:
    body = {"start_date": "0001-01-01 00:00:00", "end_date": "9999-12-31 23:59:59"}
    response = await api.client.post(EXPORTS, json=body, headers=await api.caller(zone="Asia/Tokyo"))
    assert (response.status, list((await response.json())["errors"])) == (422, ["start_date"])


async def test_an_unknown_timezone_of_the_space_is_422_and_names_the_timezone(api: Site) -> None:
    headers = await api.caller()
    async with api.database.connection() as connection:
        await connection.execute("UPDATE spaces SET timezone = 'Mars/Olympus'")
    response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    assert response.status == 422
    assert "Mars/Olympus" in (await response.json())["message"]


async def test_a_range_over_the_configured_maximum_is_422(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, max_range_days=1) as api:
        headers = await api.caller()
        assert (await api.client.post(EXPORTS, json=BODY, headers=headers)).status == 202
        response = await api.client.post(EXPORTS, json={**BODY, "end_date": "2024-01-16 00:00:00"}, headers=headers)
        assert (response.status, list((await response.json())["errors"])) == (422, ["end_date"])


async def test_an_end_date_in_the_year_9999_is_accepted_and_shown(api: Site) -> None:
    headers = await api.caller()
    body = {"start_date": "2024-01-01 00:00:00", "end_date": "9999-12-31 23:59:59"}
    response = await api.client.post(EXPORTS, json=body, headers=headers)
    status = await (await api.client.get(response.headers["Location"], headers=headers)).json()
    assert status["window"] == {"from": "2024-01-01T00:00:00Z", "to": "9999-12-31T23:59:59Z", "timezone": "UTC"}


# Authentication, scopes and the order of checks ----------------------------------------------------------------------


async def test_a_missing_malformed_unknown_revoked_or_expired_key_is_401(api: Site) -> None:
    space_id = await api.callers.create_space("a space", "UTC")
    revoked = await api.callers.create_key(space_id, Scope)
    await api.callers.revoke_key(revoked.split("_")[1])
    expired = await api.callers.create_key(space_id, Scope, timedelta(seconds=-1))
    live = await api.callers.create_key(space_id, Scope)
    unknown = f"ce_{'0' * 16}_{'A' * 43}"
    forged = live[:-4] + ("AAAA" if not live.endswith("AAAA") else "BBBB")
    values = [None, "", "Bearer", "Bearer ", f"Basic {live}", live, f"Bearer {live}x", f"Bearer {unknown}"]
    values += [f"Bearer {revoked}", f"Bearer {expired}", f"Bearer {forged}", f"Bearer {live} {live}"]
    for value in values:
        headers = {} if value is None else {"Authorization": value}
        for response in (
            await api.client.post(EXPORTS, json=BODY, headers=headers),
            await api.client.get(f"{EXPORTS}/1", headers=headers),
        ):
            assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert await response.json() == {"message": "Missing or invalid API key."}
            assert not set(RATE_HEADERS) & set(response.headers)
    assert (await api.client.get(f"{EXPORTS}/1", headers={"Authorization": f"bearer {live}"})).status == 404


async def test_two_authorization_headers_and_non_ascii_keys_are_401(api: Site) -> None:
    key = (await api.caller())["Authorization"]
    twice = await api.send(f"GET {EXPORTS}/1 HTTP/1.1\nHost: x\nAuthorization: {key}\nAuthorization: {key}")
    bytes_ = await api.send(f"GET {EXPORTS}/1 HTTP/1.1\nHost: x\nAuthorization: {key}".encode() + b"\xff\xfe")
    assert (twice.status, bytes_.status) == (401, 401)


async def test_a_key_without_the_scope_is_403_and_the_message_names_the_scope(api: Site) -> None:
    reader, writer = await api.caller(Scope.EXPORTS_READ), await api.caller(Scope.EXPORTS_WRITE)
    create = await api.client.post(EXPORTS, json=BODY, headers=reader)
    show = await api.client.get(f"{EXPORTS}/1", headers=writer)
    assert (create.status, await create.json()) == (
        403,
        {"message": "The API key does not have the scope exports:write."},
    )
    assert (show.status, await show.json()) == (403, {"message": "The API key does not have the scope exports:read."})


async def test_every_call_of_a_suspended_space_is_403_and_its_exports_go_on(api: Site) -> None:
    headers = await api.caller()
    running, queued = await api.create(headers), await api.create(headers)
    claim = await api.claim()
    async with api.database.connection() as connection:
        await connection.execute("UPDATE spaces SET subscription_active = false")
    for method, path in PROTECTED:
        response = await api.client.request(method, path, json=BODY, headers=headers)
        assert (response.status, await response.json()) == (403, {"message": "The subscription of this Space is inactive."})
    assert claim.export_id == running
    await api.complete_claimed(claim, b"file")
    assert (await api.complete(b"file")).export_id == queued
    async with api.database.connection() as connection:
        assert [row["status"] for row in await connection.fetch("SELECT status FROM export_jobs")] == ["completed"] * 2


async def test_every_authenticated_response_has_the_headers_of_the_rate_limit(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="1/minute") as api:
        headers, no_scope = await api.caller(), await api.caller(Scope.EXPORTS_WRITE)
        export_id = await api.create(headers)
        await api.complete(b"file")
        calls = [
            ("POST", EXPORTS, headers, 429),
            ("GET", f"{EXPORTS}/{export_id}", headers, 200),
            ("GET", f"{EXPORTS}/{export_id}/download", headers, 302),
            ("GET", f"{EXPORTS}?per_page=0", headers, 422),
            ("DELETE", f"{EXPORTS}/{export_id}", headers, 202),
            ("GET", f"{EXPORTS}/{export_id}/download", headers, 410),
            ("GET", "/public-api/v1/contacts", headers, 422),
            ("GET", "/public-api/v1/contacts/1", headers, 404),
            ("GET", f"{EXPORTS}/1", no_scope, 403),
        ]
        for method, path, caller, status in calls:
            response = await api.client.request(method, path, headers=caller, allow_redirects=False)
            assert response.status == status, path
            left, limit = (int(response.headers[f"X-RateLimit-{name}"]) for name in ("Remaining", "Limit"))
            name, _, rest = response.headers["RateLimit"].partition(";")
            assert rest.partition(";")[0] == f"r={left}"
            assert response.headers["RateLimit-Policy"] == f"{name};q={limit};w=60"


async def test_the_checks_run_in_the_order_of_the_contract(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, create_export="5/minute") as api:
        reader, writer = await api.caller(Scope.EXPORTS_READ), await api.caller()
        wrong = {"Content-Type": "text/plain"}
        large, bad = b"x" * 70_000, {"Content-Type": "application/json"}
        unfit = b'{"start_date": 1}'
        requests = [
            ({**wrong, "Authorization": "Bearer nobody"}, large, 401),
            ({**wrong, **reader}, large, 403),
            ({**wrong, **writer}, large, 415),
            ({**bad, **writer}, large, 413),
            ({**bad, **writer}, b"{", 400),
            ({**bad, **writer}, unfit, 422),
            ({**bad, **writer}, unfit, 422),
            ({**wrong, **writer}, large, 429),
        ]
        for headers, data, status in requests:
            assert (await api.client.post(EXPORTS, data=data, headers=headers)).status == status


# The status of an export ---------------------------------------------------------------------------------------------


async def test_queued_and_processing_exports_say_when_to_poll_again(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    for state in ("queued", "processing"):
        response = await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)
        body = await response.json()
        assert (response.status, body["status"], body["message"]) == (200, state, PENDING)
        assert list(body)[:4] == ["export_id", "status", "created_at", "message"]
        assert int(response.headers["Retry-After"]) >= 2
        datetime.strptime(body["created_at"], "%Y-%m-%dT%H:%M:%SZ")
        if state == "queued":
            await api.claim()
        else:
            assert body["progress"] == {"rows": 0, "rows_estimated": None}


async def test_every_poll_of_a_completed_export_returns_a_new_link(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(b"the bytes of a file")
    response = await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)
    body = await response.json()
    reference = ["export_id", "status", "created_at", "completed_at", "download_url", "expires_at"]
    ours = ["window", "row_count", "file_size", "sha256", "snapshot_at", "complete_until", "file_expires_at"]
    assert list(body) == reference + ours
    assert "Retry-After" not in response.headers
    assert body["snapshot_at"] == "2024-01-16T09:30:15Z"
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=14) < left <= timedelta(minutes=15)

    async def later_link() -> str:
        async with asyncio.timeout(10):
            while True:
                again = await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
                if again["expires_at"] > body["expires_at"]:
                    return str(again["download_url"])
                await asyncio.sleep(0.05)

    assert await later_link() != body["download_url"]


async def test_a_failed_export_is_200_with_a_message_and_a_code(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    failure = StorageFull(detail="no space on /dev/secret")
    assert await api.claims.end_in_error(await api.claim(), failure, pause=timedelta(seconds=1))
    response = await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)
    body = await response.json()
    assert (response.status, body["status"], body["error_code"]) == (200, "failed", "storage_full")
    assert body["message"] == "The file storage is full."
    assert "secret" not in await response.text()
    assert "Retry-After" not in response.headers


async def test_the_error_codes_are_those_of_the_contract_and_the_database_accepts_no_other(api: Site) -> None:
    kinds = [*ExportFailure.__subclasses__()]
    for kind in kinds:
        kinds += kind.__subclasses__()
    contract = {
        *("source_unavailable", "source_data", "storage_unavailable", "storage_refused", "storage_full"),
        *("too_large", "timed_out", "worker_lost", "internal"),
    }
    assert {kind.code for kind in kinds} == contract
    async with api.database.connection() as connection:
        check = await connection.fetchval(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'export_jobs_error_code_check'"
        )
    assert set(re.findall(r"'(\w+)'", check)) == contract
    assert all(f"`{code}`" in docs.text_of("docs/consuming.md") for code in contract)


async def test_cancelled_and_expired_exports_have_no_link(api: Site) -> None:
    headers = await api.caller()
    cancelled, expired = await api.create(headers), await api.create(headers)
    async with api.database.connection() as connection:
        await connection.execute("UPDATE export_jobs SET status='cancelled', finished_at=now() WHERE id=$1", cancelled)
        await api.complete(b"bytes")
        await connection.execute("UPDATE export_jobs SET status='expired', expired_at=now() WHERE id=$1", expired)
    for export_id, state in ((cancelled, "cancelled"), (expired, "expired")):
        body = await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
        assert list(body) == ["export_id", "status", "created_at", "message", "window"]
        assert body["status"] == state


async def test_unknown_and_malformed_ids_are_the_same_404(api: Site) -> None:
    values = [
        "999999",
        "0",
        "-1",
        "9223372036854775808",
        "9" * 300,
        "abc",
        "1.5",
        "1e3",
        "01",
        "%31%00",
        "%FF",
        "%2F",
        "..%2f1",
        "%D9%A1",
    ]
    headers = await api.caller()
    await api.create(headers)
    for text in values:
        response = await api.client.get(URL(f"{EXPORTS}/{text}", encoded=True), headers=headers)
        assert (response.status, await response.read()) == (404, EXPORT_NOT_FOUND), text


async def test_an_export_of_another_space_is_the_same_404_byte_for_byte(api: Site) -> None:
    owner, other = await api.caller(), await api.caller()
    export_id = await api.create(owner)
    foreign = await api.client.get(f"{EXPORTS}/{export_id}", headers=other)
    unknown = await api.client.get(f"{EXPORTS}/{export_id + 1}", headers=other)
    assert await foreign.read() == await unknown.read() == EXPORT_NOT_FOUND
    changing = {"x-request-id", "date", "x-ratelimit-remaining", "ratelimit"}
    shown = [
        {name: value for name, value in response.headers.items() if name.lower() not in changing}
        for response in (foreign, unknown)
    ]
    assert (foreign.status, shown[0]) == (404, shown[1])


async def test_head_returns_the_headers_of_get_without_a_body(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    response = await api.client.head(f"{EXPORTS}/{export_id}", headers=headers)
    assert (response.status, await response.read()) == (200, b"")
    assert int(response.headers["Content-Length"]) > 100
    assert (await api.client.head(f"{EXPORTS}/{export_id + 1}", headers=headers)).status == 404


# The file of an export -----------------------------------------------------------------------------------------------


async def test_a_download_of_a_completed_export_is_a_302_to_a_fresh_link(api: Site) -> None:
    headers = await api.caller(Scope.EXPORTS_READ, Scope.EXPORTS_WRITE)
    export_id = await api.create(headers)
    await api.complete(b"the bytes of a file")
    path = f"{EXPORTS}/{export_id}/download"
    for call in (api.client.get, api.client.head):
        response = await call(path, headers=headers, allow_redirects=False)
        assert (response.status, await response.read()) == (302, b"")
        assert response.headers["Cache-Control"] == "no-store"
        assert all(name in response.headers for name in RATE_HEADERS)
        link = URL(response.headers["Location"], encoded=True)
        file = await api.client.get(link.relative())
        assert (file.status, await file.read()) == (200, b"the bytes of a file")


async def test_a_download_is_409_while_the_export_is_not_completed_and_410_once_it_has_expired(api: Site) -> None:
    headers = await api.caller()
    export_id = await api.create(headers)
    path = f"{EXPORTS}/{export_id}/download"
    message = "The export is not completed, so it has no file. Its status gives the reason."

    async def refused() -> tuple[int, dict[str, str]]:
        response = await api.client.get(path, headers=headers, allow_redirects=False)
        assert "Location" not in response.headers
        return response.status, await response.json()

    assert await refused() == (409, {"message": message}), "queued"
    await api.complete(b"file")
    await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
    gone = "This export has expired and its file was deleted. Please create a new export."
    assert await refused() == (410, {"message": gone})
    for end in ("processing", "failed", "cancelled"):
        export_id = await api.create(headers)
        path = f"{EXPORTS}/{export_id}/download"
        claim = await api.claim()
        if end == "failed":
            await api.claims.end_in_error(claim, SourceUnavailable(), pause=timedelta(0))
        elif end == "cancelled":
            await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)
        assert await refused() == (409, {"message": message}), end


async def test_a_download_of_an_unknown_export_and_of_one_of_another_space_is_the_same_404(api: Site) -> None:
    headers, other = await api.caller(), await api.caller()
    export_id = await api.create(other)
    await api.complete(b"file")
    for asked in (export_id, 2**62, 2**63, "x", "0"):
        response = await api.client.get(f"{EXPORTS}/{asked}/download", headers=headers, allow_redirects=False)
        assert (response.status, await response.read()) == (404, EXPORT_NOT_FOUND)


async def test_a_download_needs_the_scope_to_read_exports(api: Site) -> None:
    response = await api.client.get(f"{EXPORTS}/1/download", headers=await api.caller(Scope.EXPORTS_WRITE))
    assert (response.status, (await response.json())["message"]) == (
        403,
        "The API key does not have the scope exports:read.",
    )


async def test_a_download_whose_link_cannot_be_made_is_503(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any, **__: Any) -> None:
        raise StorageUnavailable

    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(b"file")
    monkeypatch.setattr(api.store, "link", refused)
    response = await api.client.get(f"{EXPORTS}/{export_id}/download", headers=headers, allow_redirects=False)
    assert (response.status, response.headers["Retry-After"]) == (503, "5")


# Addresses, methods, errors ------------------------------------------------------------------------------------------


async def test_an_unknown_address_is_404_as_json(api: Site) -> None:
    for path in ("/", "/public-api/v1", f"{EXPORTS}/1/", f"{EXPORTS}/", f"/{EXPORTS}", "/public-api/v2/x", "/%00"):
        response = await api.send(f"GET {path} HTTP/1.1\nHost: x")
        assert (response.status, json.loads(response.body)) == (404, {"message": "Not found."})
        assert response.headers["x-request-id"]


async def test_a_wrong_method_is_405_and_lists_the_allowed_methods(api: Site) -> None:
    values = [
        ("DELETE", EXPORTS, {"GET", "HEAD", "POST"}),
        ("PUT", EXPORTS, {"GET", "HEAD", "POST"}),
        ("OPTIONS", EXPORTS, {"GET", "HEAD", "POST"}),
        ("POST", f"{EXPORTS}/1", {"DELETE", "GET", "HEAD"}),
        ("PATCH", f"{EXPORTS}/1", {"DELETE", "GET", "HEAD"}),
        ("DELETE", f"{EXPORTS}/1/download", {"GET", "HEAD"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
    ]
    for method, path, allowed in values:
        response = await api.client.request(method, path)
        assert (response.status, set(response.headers["Allow"].split(","))) == (405, allowed)
        assert response.content_type == "application/json"
        assert response.headers["X-Request-Id"]


async def test_an_error_is_a_problem_document_if_the_client_accepts_one(api: Site) -> None:
    headers = {**await api.caller(), "Accept": "application/problem+json"}
    invalid = await api.client.post(EXPORTS, json={}, headers=headers)
    body = await invalid.json()
    assert (invalid.status, invalid.content_type) == (422, "application/problem+json")
    assert (body["status"], body["detail"], list(body["errors"])) == (422, body["message"], ["start_date", "end_date"])
    for path in (f"{EXPORTS}/5", "/nowhere"):
        missing = await api.client.get(path, headers=headers)
        assert (missing.status, missing.content_type) == (404, "application/problem+json")
    created = await api.client.post(EXPORTS, json=BODY, headers=headers)
    assert (created.status, created.content_type) == (202, "application/json")


async def test_a_well_formed_request_id_is_kept(api: Site) -> None:
    for sent in ("a", "A.b_c-9", "x" * 128):
        for path in ("/healthz", "/nowhere", f"{EXPORTS}/1"):
            response = await api.client.get(path, headers={"X-Request-Id": sent})
            assert response.headers["X-Request-Id"] == sent


async def test_any_other_request_id_is_replaced(api: Site) -> None:
    for sent in (b"", b"x" * 129, b"a b", b"a/b", b"\xc3\xa9", b"\xff", "\N{ARABIC-INDIC DIGIT ONE}".encode()):
        response = await api.send(b"GET /healthz HTTP/1.1\nHost: x\nX-Request-Id: " + sent)
        assert UUID(response.headers["x-request-id"]).hex == response.headers["x-request-id"]


async def test_an_unknown_expect_header_is_417_with_a_request_id(api: Site) -> None:
    response = await api.send("GET /healthz HTTP/1.1\nHost: x\nExpect: miracles\nX-Request-Id: mine")
    assert (response.status, response.headers["x-request-id"]) == (417, "mine")


async def test_an_internal_error_is_500_with_the_request_id_and_no_details(api: Site) -> None:
    headers = {**await api.caller(), "X-Request-Id": "find-me"}
    async with api.database.connection() as connection:
        await connection.execute("ALTER TABLE export_jobs RENAME TO elsewhere")
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        response = await api.client.get(f"{EXPORTS}/1", headers=headers)
    expected = {"message": "Internal error.", "request_id": "find-me"}
    assert (response.status, await response.json()) == (500, expected)
    assert response.headers["X-Request-Id"] == "find-me"
    assert set(RATE_HEADERS) <= set(response.headers)
    failed = next(line for line in logged if line["event"] == "request_failed")
    assert (failed["request_id"], failed["exc_info"]) == ("find-me", True)


async def test_an_unreachable_database_is_503_until_it_is_back(
    postgres_server: str, database_url: str, tmp_path: Path
) -> None:
    name = database_url.split("?", maxsplit=1)[0].rsplit("/", 1)[1]
    async with site(database_url, tmp_path) as api:
        headers = await api.caller()
        export_id = await api.create(headers)
        admin = await asyncpg.connect(postgres_server)
        try:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            for response in (
                await api.client.get(f"{EXPORTS}/{export_id}", headers=headers),
                await api.client.post(EXPORTS, json=BODY, headers=headers),
            ):
                body = await response.json()
                assert (response.status, body["message"]) == (503, "The database is temporarily unavailable.")
                assert body["request_id"] == response.headers["X-Request-Id"]
                assert int(response.headers["Retry-After"]) >= 1
            assert (await api.client.get("/healthz")).status == 200
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()
        assert (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).status == 200


async def test_before_startup_is_done_the_api_is_503_and_liveness_is_200(api: Site) -> None:
    headers = await api.caller()
    api.starting = Starting()
    response = await api.client.post(EXPORTS, json=BODY, headers=headers)
    assert (response.status, (await response.json())["message"]) == (503, "The service is starting.")
    assert int(response.headers["Retry-After"]) >= 1
    assert (await api.client.get("/healthz")).status == 200
    api.starting = None
    assert (await api.client.post(EXPORTS, json=BODY, headers=headers)).status == 202


async def test_readiness_is_503_and_names_the_failed_check(api: Site) -> None:
    response = await api.client.get("/readyz")
    assert (response.status, await response.json()) == (200, {"checks": {"database": "ok", "storage": "ok", "schema": "ok"}})
    api.checks["storage"] = SourceUnavailable().message
    response = await api.client.get("/readyz")
    body = await response.json()
    assert (response.status, body["checks"]["storage"]) == (503, SourceUnavailable().message)
    assert body["message"] == "The service is not ready."


async def test_liveness_is_503_only_if_the_process_must_be_restarted(api: Site) -> None:
    api.checks["database"] = "The database is temporarily unavailable."
    assert (await api.client.get("/healthz")).status == 200
    api.alive = False
    response = await api.client.get("/healthz")
    assert (response.status, await response.json()) == (
        503,
        {"message": "The service must be restarted.", "status": "stuck"},
    )


# Files of a local store ----------------------------------------------------------------------------------------------


async def link_of(api: Site, data: bytes) -> str:
    """The link of a completed export whose file contains `data`."""
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(data)
    return str((await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json())["download_url"])


async def test_a_local_link_serves_the_file_as_a_download(api: Site) -> None:
    data = gzip.compress(b'{"id":1}\n')
    link = await link_of(api, data)
    assert link.startswith(f"http://127.0.0.1:{api.client.port}/files/")
    for method in ("GET", "HEAD"):
        response = await api.client.session.request(method, link, headers={"Accept-Encoding": "gzip, br"})
        assert (response.status, await response.read()) == (200, data if method == "GET" else b"")
        assert response.headers["Content-Length"] == str(len(data))
        assert response.headers["Content-Type"] == "application/gzip"
        assert response.headers["Content-Disposition"].startswith('attachment; filename="contacts-')
        assert "Content-Encoding" not in response.headers
        assert response.headers["X-Request-Id"]


async def test_ranges_of_a_file_can_be_downloaded(api: Site) -> None:
    link = await link_of(api, b"0123456789")
    for asked, status, data in (
        ("bytes=2-4", 206, b"234"),
        ("bytes=-3", 206, b"789"),
        ("bytes=7-", 206, b"789"),
        ("bytes=10-", 416, b""),
    ):
        response = await api.client.session.get(link, headers={"Range": asked})
        assert (response.status, await response.read()) == (status, data)
    with capture_logs() as logged:
        whole = await api.client.session.get(link)
        headers = {"Range": "bytes=2-4", "If-Range": whole.headers["Last-Modified"]}
        assert (await api.client.session.get(link, headers=headers)).status == 206
    assert [line["status"] for line in request_lines(logged)] == [200, 206]


async def test_a_forged_link_is_403(api: Site) -> None:
    link = await link_of(api, b"data")
    address, _, query = link.partition("?")
    forged = [
        address,
        f"{address}?{query}&more=1",
        link[:-1] + ("0" if link[-1] != "0" else "1"),
        f"{address}x?{query}",
        f"{address}?{query.replace('contacts-', 'others-')}",
        f"{address}?{query.replace('expires=', 'expires=9')}",
        f"{address.rsplit('/', 1)[0]}/..%2f..%2f..%2fetc%2fpasswd?{query}",
        f"{address}%ff?{query}",
    ]
    for each in forged:
        response = await api.client.session.get(each)
        assert (response.status, await response.json()) == (403, {"message": "This download link is not valid."})


async def test_an_expired_link_is_403(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, link_lifetime=timedelta(seconds=-1)) as api:
        response = await api.client.session.get(await link_of(api, b"data"))
        message = "This download link has expired. Request the export's status for a new one."
        assert (response.status, await response.json()) == (403, {"message": message})


async def test_the_link_of_a_deleted_file_is_404(api: Site) -> None:
    link = await link_of(api, b"data")
    async for stored in api.store.objects():
        await api.store.delete(stored.object_name)
    assert (await api.client.session.head(link)).status == 404
    response = await api.client.session.get(link)
    assert (response.status, await response.json()) == (404, {"message": "This file no longer exists."})


async def test_links_start_with_the_public_url_if_it_is_set(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, public_url="https://exports.test/base") as api:
        assert (await link_of(api, b"data")).startswith("https://exports.test/base/files/")


async def test_links_start_with_the_requested_host_and_a_malformed_host_is_400(api: Site) -> None:
    key = (await api.caller())["Authorization"]
    export_id = await api.create({"Authorization": key})
    await api.complete(b"data")
    for host in ("exports.test", "exports.test:8443", "[::1]:80"):
        response = await api.send(f"GET {EXPORTS}/{export_id} HTTP/1.1\nHost: {host}\nAuthorization: {key}")
        assert json.loads(response.body)["download_url"].startswith(f"http://{host}/files/")
    for line in (b"Host: evil.test/x?", b"Host: a b", b"Host: \xff", b"Host: "):
        response = await api.send(f"GET {EXPORTS}/{export_id} HTTP/1.1\nAuthorization: {key}\n".encode() + line)
        assert response.status == 400


# Logs ----------------------------------------------------------------------------------------------------------------


async def test_a_request_is_logged_once_with_its_route_and_without_its_address(api: Site) -> None:
    link = await link_of(api, b"data")
    headers = {**await api.caller(), "X-Request-Id": "find-me"}
    with capture_logs() as logged:
        await api.client.session.get(link)
        await api.client.get(f"{EXPORTS}/77?token=secret", headers=headers)
        await api.client.get("/secret/address")
    lines = request_lines(logged)
    assert [line["route"] for line in lines] == ["/files/{object_name}", f"{EXPORTS}/{{export_id}}", None]
    shown_line = {key: value for key, value in lines[1].items() if key != "duration_ms"}
    assert shown_line == {
        "event": "request",
        "log_level": "info",
        "method": "GET",
        "route": f"{EXPORTS}/{{export_id}}",
        "status": 404,
        "request_id": "find-me",
        "space_id": shown_line["space_id"],
    }
    assert isinstance(shown_line["space_id"], int)
    assert lines[1]["duration_ms"] > 0
    key = headers["Authorization"].split("_", 2)[2]
    assert not [word for word in ("signature", "secret", key) if word in str(logged)]


async def test_no_log_contains_a_key_from_malformed_http(api: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), capture_logs() as logged:
        response = await api.send(b"GET /healthz HTTP/1.1\nHost: x\nAuthorization: Bearer secret\x00key\nBad Header: 1")
    assert response.status == 400
    assert "secret" not in caplog.text + str(logged)


async def test_a_client_that_disconnects_causes_no_traceback(api: Site, caplog: pytest.LogCaptureFixture) -> None:
    key = (await api.caller())["Authorization"]
    link = await link_of(api, zlib.compress(bytes(64), 0) * 200_000)
    target = "/" + link.split("/", 3)[3]
    heads = [
        f"POST {EXPORTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 100\r\n\r\n{{",
        f"POST {EXPORTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{",
        f"GET {EXPORTS}/1 HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n",
        f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for head in heads:
        await delete_hits(api)
        with caplog.at_level(logging.WARNING), capture_logs() as logged:
            reader, writer = await api.connect()
            writer.write(head.encode())
            if target in head:
                await reader.readexactly(1000)
            else:
                await writer.drain()
                async with asyncio.timeout(10):
                    while not await delete_hits(api):
                        await asyncio.sleep(0.01)
            writer.transport.abort()
            await until_logged(logged)
            assert (await api.client.get("/healthz")).status == 200
        assert not [line for line in logged if line["log_level"] in ("warning", "error")]
        assert not caplog.records


async def delete_hits(api: Site) -> bool:
    """Delete all rate-limit windows. True if there were any: then a request has passed the rate limit."""
    async with api.database.connection() as connection:
        return bool(await connection.fetchval("DELETE FROM rate_limit_windows RETURNING true"))

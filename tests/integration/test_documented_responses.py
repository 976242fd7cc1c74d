"""Every documented status and header of every operation is seen on a real site.

The site itself fails on a response that is not documented (`tests/support/documented.py`). A new row in the table of routes
needs calls here only for what its handler alone can answer: the errors that operations share are caused for every row.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from service.errors import DatabaseUnavailable
from service.failures import StorageUnavailable
from service.model import Scope
from service.storage.directory import DirectoryStore
from service.web import exports, limits
from service.web.bodies import json_response
from service.web.declarations import Route
from service.web.openapi_examples import BODIES
from service.web.rate_limits import Allowance
from service.web.routes import ROUTES
from tests.support.documented import operations
from tests.support.web import BODY, EXPORTS, Site, site

Seen = dict[tuple[str, int], set[str]]


def protected() -> list[Route]:
    """The routes that need a key."""
    return [route for route in ROUTES if route.scope is not None]


PARAMETERS: dict[str, dict[str, str]] = {"listContacts": BODY}
"""Valid parameters of the routes that require some."""


def path_of(route: Route) -> str:
    """The path of a route with an id that does not exist."""
    return re.sub(r"\{[^}]*\}", "999", route.path)


async def call(api: Site, route: Route, **options: Any) -> int:
    """Call a route, with its first example as the body, and return the status."""
    if route.body is not None and "data" not in options:
        options.setdefault("json", next(iter(BODIES[route.operation_id].values())))
    async with api.client.request(route.method, path_of(route), **options) as response:
        await response.read()
        return response.status


async def cause_errors_of_requests(api: Site) -> None:
    """Cause the errors that every operation declares alike: those of keys, ids, bodies and parameters."""
    full, other = await api.caller(), {scope: await api.caller(scope) for scope in Scope}
    for route in protected():
        wrong = next(headers for scope, headers in other.items() if scope != route.scope)
        assert await call(api, route) == 401
        assert await call(api, route, headers=wrong) == 403
        if route.path.endswith("}") and 404 in route.responses:
            assert await call(api, route, headers=full) == 404
        if route.body is not None:
            assert await call(api, route, headers=full, data=b"x") == 415
            as_json = {**full, "Content-Type": "application/json"}
            assert await call(api, route, headers=as_json, data=b"x") == 400
            assert await call(api, route, headers=as_json, data=b" " * 65537) == 413
            assert await call(api, route, headers=full, json={}) == 422
        elif 400 in route.responses:
            assert await call(api, route, headers={**full, "Host": "a/b"}, params=PARAMETERS.get(route.operation_id)) == 400
        if route.query:
            assert await call(api, route, headers=full, params={"per_page": "0", "include_comet_tokens": "x"}) == 422


async def cause_a_slow_body(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a body that does not end in time."""

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    headers = {**await api.caller(), "Content-Type": "application/json"}
    with monkeypatch.context() as patched:
        patched.setattr(limits, "BODY_SECONDS", 0.1)
        async with api.client.post(EXPORTS, headers=headers, data=body()) as response:
            assert response.status == 408


async def cause_errors_of_the_service(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cause the errors of the service itself, after the rate limit was read, so that its headers are on the response."""
    headers = await api.caller()
    for error, status in ((RuntimeError(), 500), (DatabaseUnavailable(), 503)):

        def fail(_: Allowance, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(Allowance, "check", fail)
            for route in protected():
                assert await call(api, route, headers=headers) == status


async def use_exports(api: Site) -> str:
    """Call what the handlers of exports answer; returns the link of a completed export."""
    headers = await api.caller()
    named = {**headers, "Idempotency-Key": "a name"}
    await (await api.client.post(EXPORTS, json=BODY, headers=named)).read()
    async with api.client.post(EXPORTS, json=BODY, headers=named) as response:
        export_id = (await response.json())["export_id"]
    await (await api.client.get(f"{EXPORTS}/{export_id}", headers={**headers, "Prefer": "wait=0"})).read()
    await (await api.client.get(f"{EXPORTS}/{export_id}/download", headers=headers)).read()
    waiting = {**headers, "Prefer": "wait=0"}
    await (await api.client.post(EXPORTS, json=BODY, headers=waiting)).read()
    await api.complete(b"a file")
    await (await api.client.get(f"{EXPORTS}/{export_id}/download", headers=headers, allow_redirects=False)).read()
    async with api.client.get(f"{EXPORTS}/{export_id}", headers=headers) as response:
        link: str = (await response.json())["download_url"]
    await (await api.client.get(EXPORTS, headers=headers)).read()
    await (await api.client.delete(f"{EXPORTS}/{await api.create(headers)}", headers=headers)).read()
    return link


async def use_contacts(api: Site) -> None:
    """Call what the handlers of contacts answer."""
    headers = await api.caller()
    async with api.database.connection() as connection:
        space_id = await connection.fetchval("SELECT max(id) FROM spaces")
        contact_id = await connection.fetchval("INSERT INTO contacts (space_id) VALUES ($1) RETURNING id", space_id)
    await (await api.client.get("/public-api/v1/contacts", headers=headers, params=BODY)).read()
    await (await api.client.get(f"/public-api/v1/contacts/{contact_id}", headers=headers)).read()


async def use_expired(api: Site) -> None:
    """Ask for the file of an expired export."""
    headers = await api.caller()
    export_id = await api.create(headers)
    for _ in range(2):  # an earlier export is first in the queue
        await api.complete(b"a file")
    await (await api.client.delete(f"{EXPORTS}/{export_id}", headers=headers)).read()
    await (await api.client.get(f"{EXPORTS}/{export_id}/download", headers=headers)).read()


def delete_objects(directory: Path) -> None:
    """Delete the files of a directory store."""
    for file in directory.rglob("*.object"):
        file.unlink()


async def use_link(api: Site, link: str, directory: Path) -> None:
    """Download a file in all ways, and then after its deletion."""
    url = URL(link).relative()
    async with api.client.get(url) as response:
        tag = response.headers["ETag"]
    for headers in ({"Range": "bytes=0-1"}, {"Range": "bytes=99-"}, {"If-None-Match": tag}, {"If-Match": '"other"'}):
        await (await api.client.get(url, headers=headers)).read()
    await (await api.client.get(url.update_query(signature="x"))).read()
    delete_objects(directory)
    await (await api.client.get(url)).read()


async def use_service(api: Site) -> None:
    """Call the routes that need no key."""
    for path in ("/openapi.json", "/docs", "/docs/start.js"):
        async with api.client.get(path) as response:
            tag = response.headers["ETag"]
        await (await api.client.get(path, headers={"If-None-Match": tag})).read()
    await (await api.client.get("/docs/other.js")).read()
    for path in ("/healthz", "/readyz"):
        await (await api.client.get(path)).read()
    api.alive, api.checks["database"] = False, "is down"
    for path in ("/healthz", "/readyz"):
        await (await api.client.get(path)).read()


async def see_everything(database_url: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Cause every documented response, on sites with and without limits and with a broken store."""
    seen: Seen = {}
    async with site(database_url, directory) as api:
        await cause_errors_of_requests(api)
        await cause_a_slow_body(api, monkeypatch)
        await cause_errors_of_the_service(api, monkeypatch)
        link = await use_exports(api)
        await use_expired(api)
        await use_contacts(api)
        await use_link(api, link, directory)
        await use_service(api)
        seen |= api.documented.seen
    limit = "1/minute"
    limits = {"create_export": limit, "get_export": limit, "list_contacts": limit, "get_contact": limit, "other": limit}
    async with site(database_url, directory, **limits) as api:  # type: ignore[arg-type]  # keys of SiteOptions
        for route in protected():
            headers = await api.caller()
            assert [await call(api, route, headers=headers) for _ in range(2)][-1] == 429
        for key, headers_seen in api.documented.seen.items():
            seen.setdefault(key, set()).update(headers_seen)
    for error in (RuntimeError(), StorageUnavailable()):

        async def fail(*_: object, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(DirectoryStore, "open_link", fail)
            async with site(database_url, directory) as api:
                await (await api.client.get(URL(link).relative())).read()
                seen |= api.documented.seen
    return seen


async def test_every_documented_status_and_header_is_seen(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = await see_everything(database_url, tmp_path, monkeypatch)
    never = []
    for operation in operations().values():
        for status, response in operation["responses"].items():
            headers = seen.get((operation["operationId"], int(status)))
            if headers is None:
                never.append(f"{operation['operationId']} {status}")
            else:
                missing = {name.lower() for name in response["headers"]} - headers
                never += [f"{operation['operationId']} {status}: {name}" for name in sorted(missing)]
    assert never == []


async def test_every_example_of_a_request_is_accepted(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path) as api:
        headers = await api.caller()
        for route in ROUTES:
            for title, example in BODIES.get(route.operation_id, {}).items():
                assert await call(api, route, headers=headers, json=example) in (200, 202), title


@pytest.mark.parametrize(
    ("body", "headers", "status", "reported"),
    [
        ({"secret": 1}, {}, 202, "createExport 202: .*secret"),
        ({}, {"X-Secret": "1"}, 202, "createExport 202: header x-secret"),
        ({}, {}, 201, "createExport 201"),
    ],
)
async def test_a_response_that_is_not_documented_fails_the_site(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: dict[str, int],
    headers: dict[str, str],
    status: int,
    reported: str,
) -> None:
    def respond(created: dict[str, Any], **_: object) -> web.Response:
        return json_response(created | body, status=status, headers=headers)

    monkeypatch.setattr(exports, "json_response", respond)

    async def create() -> None:
        async with site(database_url, tmp_path) as api:
            caller = await api.caller()
            await (await api.client.post(EXPORTS, json=BODY, headers=caller)).read()

    with pytest.raises(AssertionError, match=reported):
        await create()

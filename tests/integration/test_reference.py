"""The OpenAPI document and the page at /docs, as the service sends them."""

import re
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from service.web.openapi import describe
from service.web.reference import DocsFile, OpenApiDocument
from service.web.routes import ROUTES
from tests.support.web import Site, site


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site."""
    async with site(database_url, tmp_path, create_export="7/minute") as running:
        yield running


async def test_the_document_needs_no_key_and_has_the_configured_limits(api: Site) -> None:
    response = await api.client.get("/openapi.json")
    assert (response.status, response.content_type) == (200, "application/json")
    operation = (await response.json())["paths"]["/public-api/v1/contacts/exports"]["post"]
    assert operation["x-rate-limit"] == {"name": "create-export", "calls": 7, "seconds": 60, "per": "Space"}


async def test_the_document_has_the_path_of_the_public_url(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, public_url="https://a.example/prefix") as api:
        assert (await (await api.client.get("/openapi.json")).json())["servers"] == [{"url": "/prefix"}]


async def test_threads_take_short_turns_while_the_document_is_built_and_only_then() -> None:
    usual = sys.getswitchinterval()
    seen: list[float] = []

    def build() -> bytes:
        seen.append(sys.getswitchinterval())
        if len(seen) == 1:
            raise ValueError("not now")
        return b"{}"

    document = OpenApiDocument(build)
    with pytest.raises(ValueError, match="not now"):
        await document.get()
    assert sys.getswitchinterval() == usual
    assert await document.get() == b"{}"
    assert sys.getswitchinterval() == usual
    assert seen == [pytest.approx(usual / 10)] * 2


async def test_the_document_is_built_once_and_only_on_request() -> None:
    built = []

    def build() -> bytes:
        built.append(1)
        return b"{}"

    document = OpenApiDocument(build)
    assert built == []
    assert [await document.get(), await document.get()] == [b"{}", b"{}"]
    assert built == [1]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", *(f"/docs/{name}" for name in get_args(DocsFile))])
async def test_clients_revalidate_what_they_have(api: Site, path: str) -> None:
    response = await api.client.get(path)
    assert (response.status, response.headers["Cache-Control"]) == (200, "no-cache")
    again = await api.client.get(path, headers={"If-None-Match": f'"other", W/{response.headers["ETag"]}'})
    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["ETag"] == response.headers["ETag"]
    changed = await api.client.get(path, headers={"If-None-Match": '"other"'})
    assert (changed.status, await changed.read()) == (200, await response.read())


async def test_the_policy_of_the_page_allows_only_files_of_the_service(api: Site) -> None:
    response = await api.client.get("/docs")
    assert response.content_type == "text/html"
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in str(policy)


async def test_the_page_loads_files_that_exist_and_has_no_inline_script_or_style(api: Site) -> None:
    page = await (await api.client.get("/docs")).text()
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            """Collect the addresses."""
            attributes = dict(attrs)
            assert not {"style", "onload"} & set(attributes)
            assert tag != "style"
            found.extend(value for name in ("src", "href") if (value := attributes.get(name)))

    Links().feed(page)
    assert re.findall(r"<script>", page) == []
    assert {address for address in found if address.startswith("docs/")} == {f"docs/{name}" for name in get_args(DocsFile)}
    for address in found:
        assert (await api.client.get(f"/{address}")).status == 200


async def test_other_files_of_the_package_are_404(api: Site) -> None:
    for name in ("README.md", "index.html", "..%2Froutes.py", ""):
        response = await api.client.get(f"/docs/{name}")
        assert (response.status, await response.json()) == (404, {"message": "Not found."})


async def test_both_can_be_switched_off(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, api_docs=False) as api:
        for path in ("/openapi.json", "/docs", "/docs/start.js"):
            assert (await api.client.get(path)).status == 404


def test_a_document_of_some_routes_has_no_others() -> None:
    described = describe([route for route in ROUTES if route.scope is None], {})
    assert b"listExports" not in described

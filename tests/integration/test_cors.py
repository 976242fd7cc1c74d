"""Pages of listed origins may call the API; the browser asks first with a preflight (the Fetch standard)."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.web import EXPORTS, Site, site

ORIGIN = "https://app.example"


@pytest.fixture
async def api(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """A site that one origin may call."""
    async with site(database_url, tmp_path, cors_origins=(ORIGIN,)) as running:
        yield running


def preflight(method: str, origin: str = ORIGIN) -> dict[str, str]:
    """The headers of a preflight."""
    return {"Origin": origin, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize(
    ("path", "method"),
    [(EXPORTS, "POST"), (EXPORTS, "GET"), (f"{EXPORTS}/1", "DELETE"), ("/files/a/b", "GET"), ("/healthz", "HEAD")],
)
async def test_the_preflight_of_a_known_call_needs_no_key(api: Site, path: str, method: str) -> None:
    response = await api.client.options(path, headers=preflight(method))
    assert response.status == 204
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in response.headers["Access-Control-Allow-Methods"].split(", ")
    assert "X-Request-Id" in response.headers
    assert "Origin" in response.headers.getall("Vary")
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_the_preflight_allows_the_request_headers_of_all_routes(api: Site) -> None:
    response = await api.client.options(EXPORTS, headers=preflight("POST"))
    allowed = response.headers["Access-Control-Allow-Headers"].split(", ")
    assert {"Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id", "Range"} <= set(allowed)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/unknown", preflight("GET"), 404),
        (EXPORTS, preflight("PUT"), 405),
        (EXPORTS, preflight("POST", "https://other.example"), 405),
        (EXPORTS, preflight("POST", f"{ORIGIN}.example"), 405),
        (EXPORTS, preflight("POST", "null"), 405),
        (EXPORTS, {"Origin": ORIGIN}, 405),
    ],
)
async def test_any_other_options_request_is_refused_as_without_cors(
    api: Site, path: str, headers: dict[str, str], status: int
) -> None:
    response = await api.client.options(path, headers=headers)
    assert response.status == status
    assert "Access-Control-Allow-Methods" not in response.headers
    assert ("Allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_listed_origin_reads_responses_and_errors_with_their_headers(api: Site, with_key: bool) -> None:
    headers = {"Origin": ORIGIN, **(await api.caller() if with_key else {})}
    response = await api.client.get(EXPORTS, headers=headers)
    assert response.status == (200 if with_key else 401)
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert response.headers.getall("Vary") == ["Origin"]
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    wanted = {"Location", "Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Remaining", "X-Request-Id"}
    assert wanted | {"Idempotent-Replayed"} <= set(exposed)


async def test_another_origin_gets_no_headers_but_vary(api: Site) -> None:
    response = await api.client.get("/healthz", headers={"Origin": "https://other.example"})
    assert response.headers.getall("Vary") == ["Origin"]
    assert not [name for name in response.headers if name.startswith("Access-Control")]


async def test_without_the_setting_nothing_changes(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path) as api:
        response = await api.client.options(EXPORTS, headers=preflight("POST"))
        assert response.status == 405
        response = await api.client.get("/healthz", headers={"Origin": ORIGIN})
        assert not {"Vary", "Access-Control-Allow-Origin"} & set(response.headers)

"""Where the service listens, and what it notices about a proxy in front of it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner
from structlog.testing import capture_logs

from service.__main__ import main
from service.errors import CannotListen
from service.web.server import listen
from tests.support.web import Site, site


async def answer(_: web.Request) -> web.Response:
    """Any response."""
    return web.Response(text="here")


@pytest.fixture
def app() -> web.Application:
    """An application with one page."""
    application = web.Application()
    application.router.add_get("/", answer)
    return application


def ipv6_works() -> bool:
    """Whether this machine has the loopback address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("everywhere", ["::", "0:0:0:0:0:0:0:0"])
async def test_the_address_for_all_of_ipv6_also_means_all_of_ipv4(app: web.Application, everywhere: str) -> None:
    if not ipv6_works():
        with pytest.raises(CannotListen, match=f"HOST={everywhere} PORT=0: "):
            async with listen(app, everywhere, 0, connections=10):
                pass
        return
    async with listen(app, everywhere, 0, connections=10) as address, aiohttp.ClientSession() as client:
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/") as response:
                assert await response.text() == "here"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "300.1.1.1", "[::]", "a b"])
async def test_a_host_that_is_no_address_of_this_machine_is_named(app: web.Application, host: str) -> None:
    with pytest.raises(CannotListen) as caught:
        async with listen(app, host, 0, connections=10):
            pass
    assert f"HOST={host} PORT=0: " in (caught.value.detail or "")


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("0", "0"),
        ("::", "[::1]"),
        ("0:0:0:0:0:0:0:0", "[::1]"),
        ("::1", "[::1]"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "localhost"),
    ],
)
def test_health_asks_where_the_service_listens(host: str, asked: str) -> None:
    with unused_port() as port:
        ended = CliRunner().invoke(main, ["health"], env={"HOST": host, "PORT": str(port)})
    assert (ended.exit_code, ended.output) == (1, f"no healthy service at {asked}:{port}\n")


@contextmanager
def unused_port() -> Iterator[int]:
    """A port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        yield taken.getsockname()[1]


# A proxy in front ----------------------------------------------------------------------------------------------------

BY_TLS = [
    {"X-Forwarded-Proto": "https"},
    {"X-Forwarded-Proto": "HTTPS, http"},
    {"Forwarded": "for=192.0.2.1;proto=https, for=198.51.100.1;proto=http"},
]
OTHERS = [{}, {"X-Forwarded-Proto": "http"}, {"X-Forwarded-Proto": "http, https"}, {"Forwarded": "for=x;proto=http"}]


async def warnings_after(running: Site, headers: dict[str, str]) -> list[Any]:
    """The warnings about PUBLIC_URL while two requests with these headers are answered."""
    with capture_logs() as logged:
        for _ in range(2):
            async with running.client.get("/healthz", headers=headers) as response:
                assert response.status == 200
    return [entry for entry in logged if entry["event"] == "public_url_missing"]


@pytest.mark.parametrize("headers", BY_TLS)
async def test_a_proxy_with_tls_without_a_public_url_is_named_once(api: Site, headers: dict[str, str]) -> None:
    (entry,) = await warnings_after(api, headers)
    assert (entry["log_level"], "PUBLIC_URL=https://" in entry["detail"]) == ("warning", True)
    assert await warnings_after(api, headers) == []


async def test_other_proxies_and_a_public_url_need_no_warning(api: Site, database_url: str, tmp_path: Path) -> None:
    for headers in OTHERS:
        assert await warnings_after(api, headers) == []
    async with site(database_url, tmp_path / "other", public_url="https://exports.example") as running:
        assert await warnings_after(running, BY_TLS[0]) == []

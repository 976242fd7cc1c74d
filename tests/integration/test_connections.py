"""Every phase of a connection is bounded, and everything that is refused is refused in the contract's form."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.web import connections, limits
from tests.support import web
from tests.support.web import BODY, EXPORTS, RawResponse, Site, site


@pytest.fixture
async def api(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site with at most eight connections and short deadlines."""
    monkeypatch.setattr(web, "CONNECTIONS", 8)
    monkeypatch.setattr(connections, "_SWEEP_SECONDS", 0.05)
    async with site(database_url, tmp_path) as running:
        yield running


def parsed(received: bytes) -> RawResponse:
    """The first response in these bytes."""
    start, _, body = received.partition(b"\r\n\r\n")
    status, *fields = start.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return RawResponse(int(status.split()[1]), headers, body)


async def sent(api: Site, data: bytes) -> RawResponse:
    """Send bytes and read until the server closes the connection."""
    reader, writer = await api.connect()
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            return parsed(await reader.read())
    finally:
        await hang_up(writer)


async def send_for_ever(client: socket.socket) -> None:
    """Send requests and read no response."""
    while True:
        await asyncio.get_running_loop().sock_sendall(client, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await asyncio.sleep(0.01)


async def hang_up(*writers: asyncio.StreamWriter) -> None:
    """Reset connections."""
    for writer in writers:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


def assert_refused(response: RawResponse, status: int) -> None:
    """Check status and form of a refusal."""
    assert response.status == status, response
    assert response.headers["content-type"].startswith("application/json")
    assert response.headers["server"] == "contact-exports"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", response.headers["x-request-id"])
    assert json.loads(response.body)["message"]


# Times ---------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_sends_nothing_is_closed(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IDLE_SECONDS", 0.2)
    reader, writer = await api.connect()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    await hang_up(writer)


async def test_headers_that_arrive_too_slowly_are_408(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.2)
    assert_refused(await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\n"), 408)


async def test_a_body_that_arrives_too_slowly_is_408(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.2)
    key = (await api.caller())["Authorization"]
    head = f"POST {EXPORTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 100\r\n\r\n{{".encode()
    assert_refused(await sent(api, head), 408)


async def test_a_client_that_reads_nothing_is_disconnected(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.3)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((api.client.host, api.client.port))
        client.setblocking(False)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send_for_ever(client), 20)


async def test_a_download_that_is_not_read_is_ended(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.5)
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(bytes(20_000_000))
    status = await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
    target = "/" + status["download_url"].split("/", 3)[3]
    idle = api.connections
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((api.client.host, api.client.port))
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with capture_logs() as logged:
            while not [line for line in logged if line.get("status") == 200]:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(30):
                while api.connections > idle:
                    await asyncio.sleep(0.1)


# Number --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["idle", "partial headers"])
async def test_the_connection_that_waited_longest_makes_room_for_a_newcomer(api: Site, begun: bytes) -> None:
    held = []
    for _ in range(8):
        reader, writer = await api.connect()
        writer.write(begun)
        held.append((reader, writer))
        await asyncio.sleep(0.02)
    assert (await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).status == 200
    async with asyncio.timeout(10):
        assert await held[0][0].read() == b""
    assert not held[7][0].at_eof()
    await hang_up(*(writer for _, writer in held))


async def test_a_newcomer_is_503_while_every_place_has_a_request_in_progress(api: Site) -> None:
    key = (await api.caller())["Authorization"]
    async with api.database.connection() as lock, lock.transaction():
        await lock.execute("LOCK TABLE export_jobs")
        held = [await api.connect() for _ in range(8)]
        for _, writer in held:
            writer.write(f"GET {EXPORTS}/1 HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\n\r\n".encode())
        await asyncio.sleep(0.3)
        response = await sent(api, b"")
    assert_refused(response, 503)
    assert response.headers["retry-after"] == "1"
    await hang_up(*(writer for _, writer in held))


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["incomplete", "complete"])
async def test_headers_of_more_than_32_kib_are_431(api: Site, end: bytes) -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 8000) for number in range(6))
    assert_refused(await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + fields + end), 431)


async def test_a_line_of_more_than_8190_bytes_is_431(api: Site) -> None:
    assert_refused(await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n"), 431)


# Form ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"secret\r\n\r\n",
        b"GET /secret\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.secret\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nsecret header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: secret\r\n\r\n",
    ],
)
async def test_bytes_that_are_not_http_are_400_in_the_form_of_every_error(api: Site, request_bytes: bytes) -> None:
    with capture_logs() as logged:
        response = await sent(api, request_bytes)
    assert_refused(response, 400)
    assert b"secret" not in response.body
    assert "secret" not in str(logged)
    assert not [line for line in logged if line["log_level"] in ("warning", "error")]


@pytest.mark.parametrize("value", [b"miracles", b"\xff\xfe", b"100-continue\xe9"])
@pytest.mark.parametrize("path", ["/healthz", "/nowhere", EXPORTS])
async def test_an_expectation_that_cannot_be_met_is_417(api: Site, value: bytes, path: str) -> None:
    with capture_logs() as logged:
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: ".encode()
        response = await sent(api, head + value + b"\r\n\r\n")
    assert_refused(response, 417)
    assert not [line for line in logged if line["log_level"] in ("warning", "error")]


async def test_a_client_is_told_to_send_its_body_only_after_its_key_was_accepted(api: Site) -> None:
    body = json.dumps(BODY).encode()
    head = f"POST {EXPORTS} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n"
    reader, writer = await api.connect()
    writer.write(f"{head}\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    assert b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()
    await hang_up(writer)
    key = (await api.caller())["Authorization"]
    reader, writer = await api.connect()
    writer.write(f"{head}Authorization: {key}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202")
    await hang_up(writer)


async def test_probes_are_logged_at_the_level_debug(api: Site) -> None:
    with capture_logs() as logged:
        for path in ("/healthz", "/readyz", "/nowhere"):
            await api.client.get(path)
    assert [line["log_level"] for line in logged if line["event"] == "request"] == ["debug", "debug", "info"]


# Links ---------------------------------------------------------------------------------------------------------------


async def test_links_have_the_port_of_a_request_for_a_whole_url_and_of_http_1_0(api: Site) -> None:
    key = (await api.caller())["Authorization"]
    await api.create({"Authorization": key})
    target = f"http://exports.test:8443{EXPORTS}"
    response = await api.send(f"GET {target} HTTP/1.1\nHost: exports.test:8443\nAuthorization: {key}")
    assert json.loads(response.body)["path"] == target
    response = await api.send(f"GET {EXPORTS} HTTP/1.0\nAuthorization: {key}")
    assert json.loads(response.body)["path"] == f"http://{api.client.host}:{api.client.port}{EXPORTS}"


async def test_location_contains_the_path_of_the_public_url(database_url: str, tmp_path: Path) -> None:
    async with site(database_url, tmp_path, public_url="https://exports.test/of/us") as api:
        response = await api.client.post(EXPORTS, json=BODY, headers=await api.caller())
        body = await response.json()
    assert response.headers["Location"] == f"/of/us{EXPORTS}/{body['export_id']}"


def test_the_longest_phases_are_longer_than_what_they_wait_for() -> None:
    assert limits.IDLE_SECONDS > 60, "common proxies keep idle connections for 60 s"
    assert limits.RESPONSE_SECONDS >= 3600, "a file is kept for an hour after its last link expired"

"""Every phase of a connection is bounded, and everything that is refused is refused in the contract's form."""

import asyncio
import gc
import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
from aiohttp.web import Application, Response, StreamResponse
from structlog.testing import capture_logs

from service.web import connections, limits, places, reference
from service.web.connections import Connection
from service.web.sending import UNSENT
from service.web.server import listen
from tests.support import web
from tests.support.waiting import until_true
from tests.support.web import BODY, EXPORTS, GuardedTestServer, RawResponse, Site, site


@pytest.fixture
async def api(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site with at most eight connections and short deadlines."""
    monkeypatch.setattr(web, "CONNECTIONS", 8)
    monkeypatch.setattr(places, "_SWEEP_SECONDS", 0.05)
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


async def test_a_download_that_is_not_read_is_ended_without_a_traceback(
    api: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "STALL_SECONDS", 0.5)
    link = await link_of_a_file(api)
    idle = api.connections
    async with unread(api, link), asyncio.timeout(30):
        await until_true(lambda: api.connections == idle)
    assert caplog.records == []


async def link_of_a_file(api: Site) -> str:
    """The path and query of a link to a file of 20 MB."""
    headers = await api.caller()
    export_id = await api.create(headers)
    await api.complete(bytes(20_000_000))
    status = await (await api.client.get(f"{EXPORTS}/{export_id}", headers=headers)).json()
    return f"/{status['download_url'].split('/', 3)[3]}"


@asynccontextmanager
async def unread(api: Site, target: str, headers: dict[str, str] | None = None) -> AsyncIterator[socket.socket]:
    """A client that asks for something and reads nothing of the response, which has begun when the block begins."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((api.client.host, api.client.port))
        with capture_logs() as logged:
            client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
            await until_true(lambda: [line for line in logged if "status" in line])
        yield client


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


async def test_a_download_takes_a_second_place_because_its_file_is_open_too(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRESH_SECONDS", 60.0)
    link = await link_of_a_file(api)
    async with AsyncExitStack() as downloads:
        for _ in range(4):
            await downloads.enter_async_context(unread(api, link))
        response = await sent(api, b"")
        assert_refused(response, 503)
    async with AsyncExitStack() as downloads:
        for _ in range(3):
            await downloads.enter_async_context(unread(api, link))
        held = await api.connect()
        response = await sent(api, f"GET {link} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert response.status == 200
        async with asyncio.timeout(10):
            assert await held[0].read() == b"", "it made room for the file"
        await hang_up(held[1])


async def test_a_download_that_makes_room_ends_and_closes_its_file(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    link = await link_of_a_file(api)
    places_of_the_site = cast(GuardedTestServer, api.client.server).connections
    async with AsyncExitStack() as downloads:
        for _ in range(4):
            await downloads.enter_async_context(unread(api, link))
        monkeypatch.setattr(limits, "FRESH_SECONDS", 0.0)
        response = await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert response.status == 200
        await until_true(lambda: places_of_the_site._files < 4)
    await until_true(lambda: places_of_the_site._files == 0)


async def test_a_download_is_503_while_every_place_is_taken(api: Site) -> None:
    link = await link_of_a_file(api)
    places_of_the_site = cast(GuardedTestServer, api.client.server).connections
    with ExitStack() as taken:
        while taken.enter_context(places_of_the_site.file()):
            pass
        # The connection of this request is the only one that is left, and it cannot yield.
        places_of_the_site._files -= 1
        response = await sent(api, f"GET {link} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        places_of_the_site._files += 1
    assert_refused(response, 503)


async def test_the_response_that_is_read_most_slowly_makes_room_if_nothing_waits(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = "/docs/swagger-ui-bundle.js"
    async with AsyncExitStack() as held:
        reading = await held.enter_async_context(unread(api, target))
        others = [await held.enter_async_context(unread(api, target)) for _ in range(7)]
        await read_some(reading)
        monkeypatch.setattr(limits, "FRESH_SECONDS", 0.0)
        response = await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert response.status == 200
        assert [was_reset(client) for client in others].count(True) == 1
        assert not was_reset(reading)


async def read_some(client: socket.socket) -> None:
    """Read 200 kB."""
    size = 0
    client.setblocking(False)
    while size < 200_000:
        size += len(await asyncio.get_running_loop().sock_recv(client, 16384))


def was_reset(client: socket.socket) -> bool:
    """Whether the site has ended the connection."""
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


async def test_a_hundred_connections_wait_in_the_kernel_while_the_process_is_busy() -> None:
    async with listen(Application(), "127.0.0.1", 0, connections=128) as address:
        port = int(address.rpartition(":")[2])
        with ExitStack() as opened:
            for _ in range(100):  # nothing is accepted meanwhile: this blocks the event loop
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.5))


# Bytes ---------------------------------------------------------------------------------------------------------------


def buffered(api: Site) -> int:
    """The bytes that the site holds for its clients in the buffers of connections."""
    opened = cast(GuardedTestServer, api.client.server).connections._open
    return sum(each.transport.get_write_buffer_size() for each in opened if isinstance(each, Connection) and each.transport)


async def test_a_page_that_is_not_read_is_buffered_in_pieces(api: Site) -> None:
    async with unread(api, "/docs/swagger-ui-bundle.js"):
        await until_true(lambda: buffered(api) > 0)
        assert buffered(api) <= limits.WRITE_BUFFER + limits.PIECE
    async with api.client.get("/docs/swagger-ui-bundle.js") as response:
        body = await response.read()
    assert body == (Path(reference.__file__).parent / "swagger" / "swagger-ui-bundle.js").read_bytes()
    assert response.headers["Content-Length"] == str(len(body))


async def test_the_kernel_buffers_64_kib_of_a_download_that_is_not_read(api: Site) -> None:
    link = await link_of_a_file(api)
    async with unread(api, link) as client:
        size = 0
        async with asyncio.timeout(30):
            while size != (size := queued_in_the_kernel(client)) or not size:
                await asyncio.sleep(0.2)
    assert size < 2 * limits.KERNEL_BUFFER


def queued_in_the_kernel(client: socket.socket) -> int:
    """The bytes that the kernel holds to be sent to this client."""
    port = f":{client.getsockname()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, _, queues, *_ = line.split()
        if remote.endswith(port):
            return int(queues.partition(":")[0], 16)
    return 0


async def many_exports(api: Site, headers: dict[str, str]) -> None:
    """Give the Space of the key 2,000 exports: a list of them has 450 kB."""
    export_id = await api.create(headers)
    columns = "space_id, start_date, end_date, timezone, window_from, window_to, extras, max_attempts, request_id"
    async with api.database.connection() as connection:
        await connection.execute(
            f"""INSERT INTO export_jobs ({columns})
                SELECT {columns} FROM export_jobs, generate_series(2, 2000) WHERE id = {export_id}"""
        )


async def test_pages_that_are_not_read_are_bounded_and_those_of_the_greediest_space_make_room(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAXIMUM_UNSENT", 1_200_000)
    monkeypatch.setattr(limits, "ROOM_SECONDS", 0.2)
    target, unsent = f"{EXPORTS}?per_page=2000", api.client.app[UNSENT]
    greedy, modest = await api.caller(), await api.caller()
    for headers in (greedy, modest):
        await many_exports(api, headers)
    async with unread(api, target, greedy), unread(api, target, greedy):
        held = unsent.size
        assert 800_000 < held < 1_200_000
        async with api.client.get(target, headers=greedy) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
        async with api.client.get(target, headers=modest) as response:
            assert response.status == 200
            assert len((await response.json())["data"]) == 2000
        await until_true(lambda: unsent.size == held / 2)
    await until_true(lambda: unsent.size == 0)


async def test_a_connection_that_stays_open_does_not_keep_the_body_of_its_response(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses: list[StreamResponse] = []
    monkeypatch.setattr(connections, "split", responses.append)
    await (await api.client.get("/docs/swagger-ui.css")).read()
    (response,) = responses
    assert isinstance(response, Response)
    await until_true(lambda: response.body is None)


@pytest.mark.parametrize("what", ["a page", "a download", "requests that were sent before the response to another"])
async def test_a_connection_that_is_lost_is_freed_without_a_garbage_collection(api: Site, what: str) -> None:
    target = await link_of_a_file(api) if what == "a download" else "/docs/swagger-ui-bundle.js"
    requests = f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n" * (100 if what.startswith("requests") else 1)
    gc.collect()
    before = connection_objects()
    gc.disable()
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((api.client.host, api.client.port))
            client.sendall(requests.encode())
            await until_true(lambda: connection_objects() - before)
            await until_true(lambda: buffered(api) > 0 or what == "a download")
            await asyncio.sleep(0.1)
            (lost,) = connection_objects() - before
        await until_true(lambda: lost not in connection_objects())
    finally:
        gc.enable()


def connection_objects() -> set[int]:
    """The addresses of the connections in memory, open or not."""
    return {id(each) for each in gc.get_objects() if isinstance(each, Connection)}


# Pipelines -----------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_sent_before_the_response_to_another_waits_for_its_turn(api: Site) -> None:
    turns = cast(GuardedTestServer, api.client.server).connections._pipelines
    async with turns, turns:
        reader, writer = await api.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        assert (await read_response(reader)).status == 200
        waiting = asyncio.create_task(read_response(reader))
        assert (await api.client.get("/healthz")).status == 200
        assert not waiting.done()
    assert (await waiting).status == 200
    await hang_up(writer)


async def test_a_connection_whose_second_request_waits_for_its_turn_makes_room_for_a_newcomer(api: Site) -> None:
    turns = cast(GuardedTestServer, api.client.server).connections._pipelines
    async with turns, turns:
        held = [await api.connect() for _ in range(8)]
        for reader, writer in held:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            await read_response(reader)
        response = await sent(api, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert response.status == 200
    await hang_up(*(writer for _, writer in held))


async def read_response(reader: asyncio.StreamReader) -> RawResponse:
    """The next response of a connection that stays open."""
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n\r\n")
        response = parsed(head)
        return RawResponse(
            response.status, response.headers, await reader.readexactly(int(response.headers["content-length"]))
        )


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

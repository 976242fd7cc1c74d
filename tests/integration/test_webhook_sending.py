"""One webhook on a real TLS connection: what counts as accepted, and where it may go."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import trustme
from yarl import URL

from service.webhooks import sending
from service.webhooks.allowed import AllowList, parse_hosts
from service.webhooks.sending import BODY_LIMIT, OutOfResources, Response, Sender
from tests.support.outbox import LOOPBACK, sender
from tests.support.receiver import HOST, Receiver, authority, drip, hang, lookup_of, receiver, status, trusting

TIMEOUT = timedelta(seconds=10)
NOT_ALLOWED = AllowList(parse_hosts(f"{HOST}:1"))
"""Allows nothing that a test reaches."""


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    """A receiver that accepts every message."""
    async with receiver() as made:
        yield made


async def post(by: Sender, url: str) -> Response:
    """Send a message."""
    return await by.post(url, b"{}", {"webhook-id": "msg_1"})


# Responses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_every_status_of_success_is_accepted(hooks: Receiver, code: int) -> None:
    hooks.usual = status(code)
    response = await post(sender(), hooks.url)
    assert (response.status, response.accepted) == (code, True)


@pytest.mark.parametrize("code", [301, 302, 307, 400, 401, 404, 410, 429, 500, 503, 599])
async def test_every_other_status_is_not(hooks: Receiver, code: int) -> None:
    hooks.usual = status(code, f"Location: {hooks.url}", "Retry-After: 7")
    response = await post(sender(), hooks.url)
    assert (response.status, response.accepted, response.gone) == (code, False, code == 410)
    assert response.wait == (timedelta(seconds=7) if code in (429, 503) else None)
    assert len(hooks.messages) == 1


@pytest.mark.parametrize(("value", "seconds"), [("0", 0), ("120", 120), ("soon", None), ("-5", None), ("9" * 30, 10**9)])
async def test_retry_after_in_seconds(hooks: Receiver, value: str, seconds: int | None) -> None:
    hooks.usual = status(503, f"Retry-After: {value}")
    assert (await post(sender(), hooks.url)).wait == (None if seconds is None else timedelta(seconds=seconds))


async def test_retry_after_as_a_time_is_compared_with_the_clock_of_the_endpoint(hooks: Receiver) -> None:
    theirs = datetime(2001, 1, 1, tzinfo=UTC)
    at = format_datetime(theirs + timedelta(minutes=3), usegmt=True)
    hooks.answers = [status(503, f"Date: {format_datetime(theirs, usegmt=True)}", f"Retry-After: {at}")]
    assert (await post(sender(), hooks.url)).wait == timedelta(minutes=3)
    hooks.answers = [status(503, f"Retry-After: {at}")]
    assert (await post(sender(), hooks.url)).wait is None


async def test_at_most_4_kib_of_a_body_are_read(hooks: Receiver) -> None:
    hooks.usual = status(200, body=b"x" * 1_000_000)
    response = await post(sender(), hooks.url)
    assert (response.accepted, len(response.body)) == (True, BODY_LIMIT)


async def test_the_status_counts_although_the_body_never_ends(hooks: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "_BODY_TIMEOUT", timedelta(seconds=0.3))
    hooks.usual = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", seconds=0.001)
    response = await post(sender(), hooks.url)
    assert (response.accepted, response.body) == (True, b"abc")


async def test_a_compressed_body_is_not_unpacked(hooks: Receiver) -> None:
    hooks.usual = status(200, "Content-Encoding: gzip", body=b"\x1f\x8b broken")
    response = await post(sender(), hooks.url)
    assert (response.accepted, response.body) == (True, b"\x1f\x8b broken")
    assert hooks.messages[0].headers["accept-encoding"] == "identity"


async def test_cookies_and_proxies_of_the_environment_are_not_used(hooks: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    hooks.usual = status(200, "Set-Cookie: a=b")
    by = sender()
    for _ in range(2):
        assert (await post(by, hooks.url)).accepted
    assert "cookie" not in hooks.messages[1].headers


@pytest.mark.parametrize(
    "pause", [hang, drip(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1000, seconds=0.05)], ids=["silent", "slow"]
)
async def test_an_endpoint_that_hangs_or_answers_byte_by_byte_is_left_at_the_deadline(hooks: Receiver, pause: Any) -> None:
    hooks.usual = pause
    response = await post(sender(seconds=0.5), hooks.url)
    assert (response.status, response.reason) == (None, "no response within 0.5 s")
    assert response.seconds < 5


@pytest.mark.parametrize(
    "head", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000]
)
async def test_a_response_that_is_not_http_is_a_failure(hooks: Receiver, head: bytes) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()

    hooks.usual = answer
    response = await post(sender(), hooks.url)
    assert (response.status, response.reason) == (None, "the response is not valid HTTP")


async def test_a_refused_connection_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    response = await post(sender(), f"https://{HOST}:{port}/")
    assert response.reason.startswith("no connection: ")


async def test_a_lack_of_descriptors_is_no_failure_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_sockets(*_: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("service.webhooks.pinning.socket.socket", no_sockets)
    with pytest.raises(OutOfResources):
        await post(sender(), f"https://{HOST}:8443/")


# TLS -----------------------------------------------------------------------------------------------------------------


def expired_certificate() -> trustme.LeafCert:
    return authority().issue_cert(HOST, not_after=datetime.now(UTC) - timedelta(days=1))


CERTIFICATES = {
    "expired": (expired_certificate, "certificate refused: certificate has expired"),
    "another name": (lambda: authority().issue_cert("other.test"), "certificate refused: Hostname mismatch"),
    "another authority": (
        lambda: trustme.CA().issue_cert(HOST),
        "certificate refused: unable to get local issuer certificate",
    ),
}


@pytest.mark.parametrize("fault", CERTIFICATES)
async def test_a_certificate_that_cannot_be_verified_is_refused(fault: str) -> None:
    make, reason = CERTIFICATES[fault]
    async with receiver(certificate=make()) as hooks:
        response = await post(sender(), hooks.url)
    assert response.reason.startswith(reason)
    assert hooks.messages == []


async def test_an_address_in_the_url_is_verified_too(hooks: Receiver) -> None:
    assert (await post(sender(), f"https://127.0.0.1:{hooks.port}/")).accepted
    async with receiver(certificate=authority().issue_cert(HOST)) as other:
        response = await post(sender(), f"https://127.0.0.1:{other.port}/")
    assert response.reason.startswith("certificate refused: IP address mismatch")


async def test_an_endpoint_without_tls_is_a_failure() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        response = await post(sender(), f"https://{HOST}:{server.sockets[0].getsockname()[1]}/")
    assert (response.status, response.accepted) == (None, False)


# Addresses -----------------------------------------------------------------------------------------------------------

EIGHT_WAYS = {
    "an address in the URL": ("https://127.0.0.1:8443/", ()),
    "an address written as one number": ("https://2130706433:8443/", ("127.0.0.1",)),
    "an address written in hexadecimal": ("https://0x7f.1:8443/", ("127.0.0.1",)),
    "an IPv6 address that contains an IPv4 address": ("https://[::ffff:127.0.0.1]:8443/", ()),
    "a name that resolves to the loopback address": ("https://hooks.test:8443/", ("127.0.0.1",)),
    "a name that resolves to the metadata service": ("https://hooks.test:8443/", ("169.254.169.254",)),
    "a name that resolves to an IPv6 address of NAT64": ("https://hooks.test:8443/", ("64:ff9b::7f00:1",)),
    "a name with ten addresses of which one is private": (
        "https://hooks.test:8443/",
        (*(f"8.8.8.{last}" for last in range(1, 10)), "10.0.0.1"),
    ),
}


@pytest.mark.parametrize("way", EIGHT_WAYS)
async def test_a_private_address_is_not_connected_to(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, addresses = EIGHT_WAYS[way]
    connected = []

    async def connect(*arguments: object, **options: object) -> None:
        connected.append((arguments, options))

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    response = await post(sender(allow=AllowList(), lookup=lookup_of(*addresses)), url)
    rule = "an IPv4 address must have four decimal numbers" if "number" in way else "the address is not public"
    assert (response.status, response.reason) == (None, f"not sent: {rule}")
    assert connected == []


async def test_a_redirect_to_a_private_address_is_not_followed(hooks: Receiver) -> None:
    async with receiver() as private:
        hooks.usual = status(307, f"Location: https://127.0.0.1:{private.port}/")
        allow = AllowList(parse_hosts(f"{HOST}:{hooks.port}"))
        response = await post(sender(allow=allow), hooks.url)
    assert response.reason == "307 Temporary Redirect; redirects are not followed"
    assert private.messages == []


async def test_a_name_server_that_changes_its_response_gains_nothing(hooks: Receiver) -> None:
    """The second lookup would be the loopback address; there is none, because the checked address is the one used."""
    asked = []

    def flipping(host: str, port: int) -> list[tuple[Any, ...]]:
        asked.append(host)
        return lookup_of("192.0.2.1" if len(asked) == 1 else "127.0.0.1")(host, port)

    response = await post(
        sender(allow=AllowList(parse_hosts(f"{HOST}:{hooks.port}")), lookup=flipping, seconds=1), hooks.url
    )
    assert not response.accepted
    assert asked == [HOST]
    assert hooks.messages == []


async def test_the_address_of_a_socket_is_checked_again(hooks: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the check of the lookup were passed by, no connection to an address that is not allowed is opened."""

    async def unchecked(self: Any, host: str, port: int = 0, family: int = 0) -> list[Any]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": socket.AF_INET, "proto": 6, "flags": 0}]

    monkeypatch.setattr("service.webhooks.pinning.PinnedResolver.resolve", unchecked)
    assert (await post(sender(), hooks.url)).accepted
    monkeypatch.setattr("service.webhooks.allowed.PORTS", (hooks.port,))
    response = await post(sender(allow=AllowList()), hooks.url)
    assert response.reason == "not sent: the address is not public"
    assert len(hooks.messages) == 1


@pytest.mark.parametrize("allow", [LOOPBACK, AllowList(parse_hosts(HOST))])
async def test_an_allowed_host_or_network_is_reached(hooks: Receiver, allow: AllowList) -> None:
    assert (await post(sender(allow=allow), hooks.url)).accepted


@pytest.mark.parametrize("allow", [AllowList(), NOT_ALLOWED])
async def test_another_port_is_refused(hooks: Receiver, allow: AllowList) -> None:
    response = await post(sender(allow=allow), hooks.url)
    assert response.reason == "not sent: the port is not 443 or 8443"


# Name servers --------------------------------------------------------------------------------------------------------


async def test_a_name_that_does_not_resolve_is_a_failure() -> None:
    def fails(*_: object) -> list[tuple[Any, ...]]:
        raise socket.gaierror(-2, "Name or service not known")

    assert (await post(sender(lookup=fails), f"https://{HOST}/")).reason == "the name does not resolve"


async def test_a_name_server_that_hangs_occupies_no_thread_of_exports_and_does_not_outlast_the_deadline() -> None:
    release = threading.Event()

    def hangs(*_: object) -> list[tuple[Any, ...]]:
        release.wait(60)
        return []

    try:
        by = sender(lookup=hangs, seconds=0.3)
        responses = await asyncio.gather(*(post(by, f"https://{HOST}/") for _ in range(40)))
        assert {response.reason for response in responses} == {"no response within 0.3 s"}
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        release.set()


# A proxy -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def proxy(target: int, requests: list[str]) -> AsyncIterator[int]:
    """A proxy that connects every tunnel to this port of the loopback address; yields its own port."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        upstream, to_upstream = await asyncio.open_connection("127.0.0.1", target)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(copy(reader, to_upstream), copy(upstream, writer), return_exceptions=True)
        to_upstream.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_a_proxy_connects_and_the_certificate_of_the_endpoint_is_verified(hooks: Receiver) -> None:
    requests: list[str] = []
    async with proxy(hooks.port, requests) as port:
        through = URL(f"http://alice:secret@127.0.0.1:{port}")
        by = Sender(AllowList(), trusting(), TIMEOUT, proxy=through)
        assert (await post(by, f"https://{HOST}/hooks")).accepted
        untrusting = Sender(AllowList(), ssl.create_default_context(), TIMEOUT, proxy=through)
        assert (await post(untrusting, f"https://{HOST}/hooks")).reason.startswith("certificate refused")
        refused = await post(by, "https://10.0.0.1/hooks")
    assert refused.reason == "not sent: the address is not public"
    assert [request.split()[1] for request in requests] == [f"{HOST}:443"] * 2
    assert "Proxy-Authorization: Basic " in requests[0]
    assert len(hooks.messages) == 1


async def test_a_proxy_that_is_down_is_named() -> None:
    by = Sender(AllowList(), trusting(), TIMEOUT, proxy=URL("http://127.0.0.1:1"))
    assert (await post(by, f"https://{HOST}/")).reason == "no connection through the proxy"

"""Sends one webhook: a signed POST to a checked address, with one deadline for everything."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import aiohttp
from yarl import URL

from service.errors import WebhookAddressRefused
from service.exhaustion import lacks_resources
from service.webhooks.allowed import AllowList
from service.webhooks.pinning import Lookup, PinnedResolver, look_up

BODY_LIMIT = 4096
"""Bytes of a response's body that are read."""
_BODY_TIMEOUT = timedelta(seconds=2)
"""Longest wait for the body of a response. The status alone decides, so a slow body must not occupy a slot."""
_LONGEST_REASON = 200
_HEADERS = {"Content-Type": "application/json", "User-Agent": "contact-exports", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class Response:
    """What came back after `seconds`: no `status` if there was no response. `reason` says in words how it ended.

    `body` has at most 4 KiB. `retry_after` is the header of that name, if the response had a valid one.
    """

    status: int | None
    reason: str
    seconds: float
    body: bytes = b""
    retry_after: timedelta | None = None

    @property
    def accepted(self) -> bool:
        """Whether the endpoint has the message."""
        return self.status is not None and self.status // 100 == 2  # noqa: PLR2004 - the class of success

    @property
    def gone(self) -> bool:
        """Whether the endpoint wants no more messages."""
        return self.status == HTTPStatus.GONE

    @property
    def wait(self) -> timedelta | None:
        """How long the endpoint asked to wait."""
        return self.retry_after if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) else None


_WITH_OWN_TEXT = aiohttp.ClientConnectorDNSError, aiohttp.ClientSSLError, aiohttp.ClientProxyConnectionError
_TEXTS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "the name does not resolve"),
    ((aiohttp.ClientSSLError, ssl.SSLError), "TLS failed"),
    ((aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError), "no connection through the proxy"),
    (aiohttp.ServerDisconnectedError, "the connection was closed without a response"),
    (OSError, "the connection was lost"),
)
"""Errors in words, the first that fits."""


class OutOfResources(Exception):
    """This process or machine had no descriptors or memory left; that is no fault of the endpoint."""


@dataclass(frozen=True, slots=True)
class Sender:
    """`timeout` is the deadline of a request, from the name lookup to the headers of the response.

    With a `proxy` the proxy connects to the endpoint and must enforce where to; only the URL is checked here.
    """

    allow: AllowList
    tls: ssl.SSLContext
    timeout: timedelta
    proxy: URL | None = None
    lookup: Lookup = field(default=look_up)

    async def post(self, address: str, body: bytes, headers: Mapping[str, str]) -> Response:
        """Send a message. Every error of the endpoint is a Response. Raises OutOfResources."""
        started = time.monotonic()
        try:
            url = self.allow.check_url(address)
        except WebhookAddressRefused as error:
            return Response(None, f"not sent: {error.message}", 0.0)
        host, port = url.raw_host or "", url.port or 0
        resolver = PinnedResolver(self.allow, host, port, self.lookup)
        try:
            async with asyncio.timeout(self.timeout.total_seconds()):
                return await self._exchange(url, body, headers, resolver, started)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if lacks_resources(error):
                raise OutOfResources from error
            reason = f"not sent: {resolver.refused}" if resolver.refused else self._reason(error)
            return Response(None, reason[:_LONGEST_REASON], time.monotonic() - started)

    async def _exchange(
        self, url: URL, body: bytes, headers: Mapping[str, str], resolver: PinnedResolver, started: float
    ) -> Response:
        async with (
            aiohttp.ClientSession(
                connector=self._connector(resolver),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            ) as session,
            session.post(
                url, data=body, headers={**_HEADERS, **headers}, allow_redirects=False, proxy=self.proxy, ssl=self.tls
            ) as response,
        ):
            seconds = time.monotonic() - started
            return Response(
                response.status,
                _status_text(response.status),
                seconds,
                await _beginning(response),
                _retry_after(response.headers.get("Retry-After"), response.headers.get("Date")),
            )

    def _connector(self, resolver: PinnedResolver) -> aiohttp.TCPConnector:
        """A connector for one request, so that no connection is reused for another endpoint."""
        if self.proxy is not None:
            return aiohttp.TCPConnector(force_close=True)
        return aiohttp.TCPConnector(
            resolver=resolver, use_dns_cache=False, force_close=True, socket_factory=resolver.socket_for
        )

    def _reason(self, error: Exception) -> str:
        match error:
            case TimeoutError():
                return f"no response within {self.timeout.total_seconds():g} s"
            case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refusal):
                return f"certificate refused: {refusal.verify_message}"
            case aiohttp.ClientConnectorError() if not isinstance(error, _WITH_OWN_TEXT):
                return f"no connection: {error.os_error.strerror or type(error.os_error).__name__}"
            case _:
                return next((text for kinds, text in _TEXTS if isinstance(error, kinds)), "the response is not valid HTTP")


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """The body, as far as it arrives in time and within the limit."""
    body = b""
    with suppress(aiohttp.ClientError, OSError):  # also TimeoutError
        async with asyncio.timeout(_BODY_TIMEOUT.total_seconds()):
            while len(body) < BODY_LIMIT and (more := await response.content.read(BODY_LIMIT - len(body))):
                body += more
    response.close()
    return body


def _status_text(status: int) -> str:
    """A status in words; the reason phrase of the response itself is not repeated, because it may contain anything."""
    try:
        phrase = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    return f"{phrase}; redirects are not followed" if status // 100 == 3 else phrase  # noqa: PLR2004 - the class


def _retry_after(value: str | None, date: str | None) -> timedelta | None:
    """The header as a duration. A time is compared with the endpoint's own clock."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value[:10]), 10**9))
    with suppress(ValueError, TypeError):
        return max(parsedate_to_datetime(value) - _clock(date), timedelta(0))
    return None


def _clock(date: str | None) -> datetime:
    """Raises ValueError or TypeError if the response has no valid Date header."""
    return parsedate_to_datetime(date or "")

"""Calls to one service: its key, its errors, and the repetition of calls that met a broken connection or a rate limit."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self

import aiohttp
from yarl import URL

from service.client.connections import NeverConnected, Unusable, explain, proxy_for
from service.client.errors import (
    ClientError,
    NotTheService,
    RateLimited,
    Refused,
    Unauthorised,
    Unavailable,
    Unreachable,
)

Notice = Callable[[str], None]
"""Gets one sentence about every wait that a person would wonder about."""

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 60.0
"""Longest time without a byte. A status call may be held for 30 s."""
_FIRST_CONTACT_SECONDS = 3.0
"""How long a call is repeated before the service has responded once: a wrong address is more likely than a failure."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 60.0
_READ_BUFFER = 256 * 1024
"""Bytes that are read ahead. They are lost when a connection breaks, and received again."""
_UNAVAILABLE = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
_DEFAULT_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A response with a JSON object."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """A request that can be repeated without harm."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None


class Transport:
    """Sends calls with a key, and requests for links without it.

    `patience` is how long one call is repeated, in seconds.
    """

    def __init__(self, base_url: str, key: str, patience: float, notice: Notice) -> None:
        self._base = base_url.rstrip("/")
        # Sent with API calls only. A download link may name another host and needs no key.
        self._key = {"Authorization": f"Bearer {key}"}
        self._patience = patience
        self._notice = notice
        self._reached = False
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, read_bufsize=_READ_BUFFER)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def is_ok(self, path: str) -> bool:
        """Whether a GET without the key returns 200 now."""
        try:
            async with self._session.get(f"{self._base}{path}") as response:
                return response.status == HTTPStatus.OK
        except aiohttp.ClientError:
            return False

    async def call(self, call: Call) -> Reply:
        """Send a call until it succeeds; waits after 429, 503 and broken connections, at most `patience` seconds.

        Raises Refused (Unauthorised, RateLimited), Unreachable or NotTheService.
        """
        started, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return await self._send(call)
            except (RateLimited, Unavailable) as error:
                failure: ClientError = error
                wait = error.retry_after
            except Unreachable as error:
                if isinstance(error, Unusable) or (isinstance(error, NeverConnected) and not self._reached):
                    raise
                failure, wait = error, pause
            patience = self._patience if self._reached else min(_FIRST_CONTACT_SECONDS, self._patience)
            if time.monotonic() + wait > started + patience:
                raise failure
            self._notice(f"{failure} Trying again in {wait:g} s.")
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    @asynccontextmanager
    async def open_link(self, link: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a GET of a signed link. Raises Unreachable or NotTheService, also while its body is read."""
        url = URL(link, encoded=True)
        try:
            async with self._session.get(url, headers=headers, proxy=proxy_for(url), auto_decompress=False) as response:
                yield response
        except aiohttp.ClientError as error:
            raise explain(error, url) from None

    async def _send(self, call: Call) -> Reply:
        url = URL(f"{self._base}{call.path}")
        try:
            async with self._session.request(
                call.method,
                url,
                json=call.body,
                params=call.query,
                headers={**self._key, **(call.headers or {})},
                allow_redirects=False,
                proxy=proxy_for(url),
            ) as response:
                content = await response.read()
        except aiohttp.ClientError as error:
            raise explain(error, url) from None
        self._reached = True
        return _checked(response, content)


def _checked(response: aiohttp.ClientResponse, content: bytes) -> Reply:
    """The reply in a response. Raises the error that its status means."""
    status, host = response.status, f"{response.url.host}:{response.url.port}"
    body = _json_object(content)
    if status < HTTPStatus.MULTIPLE_CHOICES:
        if body is None:
            raise NotTheService(f"{host} responds with something else than JSON, so it is not this service; check the URL.")
        return Reply(status, response.headers, body)
    if status < HTTPStatus.BAD_REQUEST:
        raise NotTheService(
            f"{host} redirects to {response.headers.get('Location', 'nowhere')}; use that address as the URL."
        )
    if status in _UNAVAILABLE:
        raise Unavailable(f"{host} is unavailable: {_message(body, response)}", _retry_after(response))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        raise RateLimited(_message(body, response), status, retry_after=_retry_after(response))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        request_id = response.headers.get("X-Request-Id", "none")
        raise Unreachable(f"{host} failed with status {status} (request id {request_id}).")
    if body is None:
        raise NotTheService(f"{host} responds with status {status} and no JSON, so it is not this service; check the URL.")
    if status == HTTPStatus.UNAUTHORIZED:
        raise Unauthorised(_message(body, response), status)
    raise Refused(_message(body, response), status, body.get("errors"))


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _message(body: Mapping[str, Any] | None, response: aiohttp.ClientResponse) -> str:
    return str(body["message"]) if body and "message" in body else f"{response.reason or 'no reason'}."


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds, at least 1. A date, which this service does not send, counts as the default."""
    value = response.headers.get("Retry-After", "")
    return max(1.0, float(value)) if value.isdecimal() else _DEFAULT_RETRY_AFTER

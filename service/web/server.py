"""The HTTP server: its limits, its logging, and the socket it listens on."""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from typing import Any, cast

import structlog
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy

from service.errors import CannotListen
from service.web import limits
from service.web.connections import TOO_LONG, Connection, refusal
from service.web.middleware import EXPECTATION
from service.web.places import Connections

ACCEPT_BURST = 16
"""Most connections that are accepted in one turn of the event loop."""
ACCEPTED_MEANWHILE = 5 * ACCEPT_BURST
"""Most descriptors beyond the places: a connection takes its place three turns after it was accepted, and the one that made
room for it is closed two turns later. At most half of the fewest places: otherwise newcomers would close each other before
their requests are read."""
_QUEUE = 1024
"""Connections that wait in the kernel until they are accepted. It drops further ones, whose clients repeat after 1 s."""
_KEEPALIVE_MARGIN = 5.0
"""Seconds by which aiohttp's own timer is later than ours, so that ours decides."""
_RESPONSE_POLL_SECONDS = 0.05
_SHUTDOWN_SECONDS = 1.0
"""Longest that in-flight requests may take after everything else has stopped, in seconds."""

log = structlog.get_logger()


def _quotes_no_request(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))


_server_log = logging.getLogger("service.web.server")
# An error about bytes that are not HTTP quotes the bytes, which may contain a key. The client gets status 400.
_server_log.addFilter(_quotes_no_request)

SERVER_OPTIONS: Mapping[str, Any] = {
    # aiohttp's access log would print signed links. `service.web.middleware.finish_response` logs each request instead.
    "access_log": None,
    "logger": _server_log,
    # Compressed bodies are refused. aiohttp would decompress them before any check.
    "auto_decompress": False,
}


class GuardedServer(web.Server):
    """Makes a `Connection` for each socket, and takes the header Expect out of each request."""

    def __init__(self, inner: web.Server, connections: Connections, **options: Any) -> None:
        # A client that disconnects must not interrupt a handler between its commit and the wake-up of the runner.
        super().__init__(self._handle, request_factory=self._request, handler_cancellation=False)
        self._inner = inner
        self._open = connections
        self._options = {
            "keepalive_timeout": limits.IDLE_SECONDS + _KEEPALIVE_MARGIN,
            "max_line_size": limits.MAXIMUM_FIELD,
            "max_field_size": limits.MAXIMUM_FIELD,
            "max_headers": limits.MAXIMUM_FIELDS,
            "read_bufsize": limits.READ_BUFFER,
            "lingering_time": limits.LINGER_SECONDS,
            **options,
        }

    def __call__(self) -> web.RequestHandler:
        """The protocol of a new socket."""
        return Connection(self, self._open, **self._options)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if sum(len(name) + len(value) for name, value in request.raw_headers) > limits.MAXIMUM_HEAD:
            return refusal(TOO_LONG)
        return await self._inner.request_handler(request)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: "asyncio.Task[None]",
    ) -> web.BaseRequest:
        """The request of a message. aiohttp would answer Expect itself, before the key and the rate limit are checked."""
        expectation = message.headers.get(hdrs.EXPECT)
        if expectation is not None:
            headers = CIMultiDict(message.headers)
            del headers[hdrs.EXPECT]
            message = message._replace(headers=CIMultiDictProxy(headers))
        request = self._inner.request_factory(message, payload, protocol, writer, task)
        if expectation is not None:
            request[EXPECTATION] = expectation
        return request


class GuardedRunner(web.AppRunner):
    """Runs an application behind a `GuardedServer`."""

    def __init__(self, app: web.Application, connections: Connections, **options: Any) -> None:
        super().__init__(app, access_log=None, handle_signals=False, shutdown_timeout=options.pop("shutdown_timeout", 60.0))
        self._connections = connections
        self._options = options

    async def _make_server(self) -> web.Server:
        return GuardedServer(await super()._make_server(), self._connections, **self._options)


class _Queueing(web.BaseSite):
    """Accepts connections in bursts, and lets many more wait in the kernel: the event loop has one number for both."""

    async def start(self) -> None:
        """Listen."""
        await super().start()
        for listening in cast(asyncio.Server, self._server).sockets:
            with socket.socket(fileno=os.dup(listening.fileno())) as end:
                end.listen(_QUEUE)


class _QueueingSite(_Queueing, web.TCPSite):
    """Listens on the addresses of a host."""


class _QueueingSocket(_Queueing, web.SockSite):
    """Listens on a socket."""


def _site(runner: web.AppRunner, host: str, port: int) -> web.BaseSite:
    """`::` in any spelling listens on IPv4 as well. Raises OSError."""
    if _is_all_of_ipv6(host) and socket.has_dualstack_ipv6():
        both = socket.create_server((host, port), family=socket.AF_INET6, backlog=ACCEPT_BURST, dualstack_ipv6=True)
        return _QueueingSocket(runner, both, backlog=ACCEPT_BURST)
    return _QueueingSite(runner, host, port, backlog=ACCEPT_BURST)


def _is_all_of_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).is_unspecified
    except ValueError:
        return False


@asynccontextmanager
async def listen(
    app: web.Application,
    host: str,
    port: int,
    *,
    connections: int,
    prefix: str = "",
    patience: Callable[[], float] = lambda: 0,
) -> AsyncIterator[str]:
    """Accept requests inside the block, over at most this many connections at once.

    Yields the address, such as `http://127.0.0.1:8080`; port 0 takes a free port. `prefix`, such as `ADMIN_`, is that of the
    settings HOST and PORT in an error, and of the log line. After the block, downloads and other responses that are being
    sent may continue for `patience` seconds; it is asked again and again.

    Raises CannotListen.
    """
    opened = Connections(connections)
    runner = GuardedRunner(app, opened, shutdown_timeout=_SHUTDOWN_SECONDS, **SERVER_OPTIONS)
    await runner.setup()
    try:
        try:
            await _site(runner, host, port).start()
        except (OSError, UnicodeError) as error:
            reason = (error.strerror or os.strerror(error.errno or 0)) if isinstance(error, OSError) else "not a host name"
            raise CannotListen(detail=f"{prefix}HOST={host} {prefix}PORT={port}: {reason}") from None
        bound_host, bound_port = runner.addresses[0][:2]
        address = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        event = f"{prefix.lower()}listening"
        log.info(event, address=address)
        yield address
        await _finish_responses(runner, opened, patience)
    finally:
        await runner.cleanup()


async def _finish_responses(runner: web.AppRunner, opened: Connections, patience: Callable[[], float]) -> None:
    """Accept nothing more, and wait for the responses that are being sent."""
    for site in list(runner.sites):
        await site.stop()
    if runner.server is not None:
        runner.server.pre_shutdown()
    while opened.responding and patience() > 0:
        await asyncio.sleep(min(_RESPONSE_POLL_SECONDS, patience()))

"""Bounds every phase of every connection, in time and number, and answers what aiohttp refuses before any middleware.

A connection without a complete request is closed as soon as a newcomer needs its place: the one that has waited longest goes
first. There is no limit per address, because many clients may share one proxy.
"""

import asyncio
import socket
import time
from asyncio import BaseTransport
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, cast
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from service.web import limits
from service.web.middleware import REQUEST_ID
from service.web.problems import Problem, render, stamp

_SWEEP_SECONDS = 1.0

_MALFORMED = Problem(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.")
TOO_LONG = Problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The headers must not be larger than {limits.MAXIMUM_HEAD // 1024} KiB, and no line longer than 8190 bytes.",
)
_HEAD_TOO_SLOW = Problem(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")
_FULL = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.", headers=(("Retry-After", "1"),))

log = structlog.get_logger()


class Phase(Enum):
    """What a connection is doing."""

    IDLE = auto()
    HEAD = auto()
    REQUEST = auto()
    """A handler works; it has deadlines of its own."""
    BODY = auto()
    """A handler waits for the body; `bodies.receiving_body` has the deadline."""
    RESPONSE = auto()


_WITHOUT_REQUEST = frozenset({Phase.IDLE, Phase.HEAD, Phase.BODY})


class Connections:
    """The open connections, at most `maximum`."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open: set[Connection] = set()
        self._waiting: dict[Connection, None] = {}
        """Connections without a complete request, the one that has waited longest first."""
        self._sweeping: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Connection") -> bool:
        """Register a new connection. False if all places are taken by requests in progress."""
        if len(self._open) >= self._maximum:
            victim = next(iter(self._waiting), None)
            if victim is None:
                return False
            self.discard(victim)
            victim.force_close()
        self._open.add(connection)
        self._waiting[connection] = None
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        return True

    def moved(self, connection: "Connection", phase: Phase) -> None:
        """Record that the connection entered a phase."""
        if connection not in self._open:
            return
        if phase not in _WITHOUT_REQUEST:
            self._waiting.pop(connection, None)
        else:
            self._waiting.setdefault(connection)

    def discard(self, connection: "Connection") -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in tuple(self._open):
            connection.enforce_deadline(now)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._open else None


class Connection(web.RequestHandler):
    """One connection: aiohttp's protocol, with deadlines for every phase and our own responses to malformed requests."""

    __slots__ = ("_connections", "_head_bytes", "_phase", "_since", "_stalled_since")

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._phase = Phase.IDLE
        self._since = time.monotonic()
        self._stalled_since: float | None = None
        self._head_bytes = 0

    def connection_made(self, transport: BaseTransport) -> None:
        """Take a place, or refuse the connection."""
        super().connection_made(transport)
        _limit_unacknowledged(transport)
        if not self._connections.add(self):
            self._refuse(_FULL)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the headers while they are incomplete."""
        if data and self._phase is Phase.IDLE:
            self._head_bytes = 0
            self.enter(Phase.HEAD)
        super().data_received(data)
        if self._phase is not Phase.HEAD:
            return
        if self._messages:
            self.enter(Phase.REQUEST)
            return
        self._head_bytes += len(data)
        if self._head_bytes > limits.MAXIMUM_HEAD:
            self._refuse(TOO_LONG)

    def pause_writing(self) -> None:
        """The client does not read: remember since when."""
        super().pause_writing()
        self._stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._stalled_since = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, and then wait for the next request."""
        self.enter(Phase.RESPONSE)
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self.enter(Phase.REQUEST if self._messages else Phase.IDLE)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to bytes that are not HTTP, and to an error outside every middleware. It ends the connection."""
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return refusal(TOO_LONG if isinstance(exc, LineTooLong) else _MALFORMED)
        log.error("request_failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of another response was already sent")
        return refusal(Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error."), request.get(REQUEST_ID))

    def enter(self, phase: Phase) -> None:
        """Begin a phase and its deadline."""
        self._phase, self._since = phase, time.monotonic()
        self._connections.moved(self, phase)

    def enforce_deadline(self, now: float) -> None:
        """Close the connection if its phase takes too long, or if its client reads nothing."""
        if self._stalled_since is not None and now - self._stalled_since > limits.STALL_SECONDS:
            self._abort()
        elif self._phase is Phase.IDLE and now - self._since > limits.IDLE_SECONDS:
            self.force_close()
        elif self._phase is Phase.HEAD and now - self._since > limits.HEAD_SECONDS:
            self._refuse(_HEAD_TOO_SLOW)
        elif self._phase is Phase.RESPONSE and now - self._since > limits.RESPONSE_SECONDS:
            self._abort()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Send a response for a request that never became one, and close the connection."""
        if self.transport is not None:
            response = refusal(problem)
            body = cast(bytes, response.body)
            lines = [f"HTTP/1.1 {response.status} {response.reason}"]
            lines += [f"{name}: {value}" for name, value in response.headers.items()]
            lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
            self.transport.write("\r\n".join(lines).encode() + body)
        self.force_close()


def refusal(problem: Problem, request_id: str | None = None) -> web.Response:
    """The response to what is no request of the application. It is logged, and the connection is closed after it."""
    request_id = request_id or uuid4().hex
    response = render(problem, accept="", request_id=request_id)
    stamp(response.headers, request_id)
    response.force_close()
    log.info("request", method=None, route=None, status=response.status, request_id=request_id)
    return response


def _limit_unacknowledged(transport: BaseTransport) -> None:
    """Let the kernel end a connection whose client accepts nothing: files are sent without passing this process."""
    end = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if end is not None and option is not None:
        end.setsockopt(socket.IPPROTO_TCP, option, int(limits.STALL_SECONDS * 1000))

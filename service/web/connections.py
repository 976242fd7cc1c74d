"""Bounds every phase of every connection, and answers what aiohttp refuses before any middleware."""

import asyncio
import socket
import struct
import sys
import time
from asyncio import BaseTransport, WriteTransport
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast
from uuid import uuid4

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from service.web import limits
from service.web.middleware import REQUEST_ID
from service.web.places import Connections, Phase
from service.web.problems import Problem, render, stamp
from service.web.sending import release_body, split

_MALFORMED = Problem(HTTPStatus.BAD_REQUEST, "The request is not valid HTTP/1.1.")
TOO_LONG = Problem(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    f"The headers must not be larger than {limits.MAXIMUM_HEAD // 1024} KiB, and no line longer than 8190 bytes.",
)
_HEAD_TOO_SLOW = Problem(HTTPStatus.REQUEST_TIMEOUT, "The request did not arrive in time.")
_FULL = Problem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open.", headers=(("Retry-After", "1"),))

_ACKNOWLEDGED = 120
"""Offset of the 64-bit field `tcpi_bytes_acked` in the result of TCP_INFO on Linux."""
_NO_LINGER = struct.pack("ii", 1, 0)

log = structlog.get_logger()


class Connection(web.RequestHandler):
    """One connection: aiohttp's protocol, with deadlines for every phase and our own responses to malformed requests."""

    __slots__ = (
        "_connections",
        "_head_bytes",
        "_phase",
        "_read_before",
        "_release",
        "_sends_file",
        "_since",
        "_stalled_since",
    )

    def __init__(self, manager: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **options)
        self._connections = connections
        self._phase = Phase.IDLE
        self._since = time.monotonic()
        self._stalled_since: float | None = None
        self._head_bytes = 0
        self._read_before = 0
        self._sends_file = False
        self._release: Callable[[], None] | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        """Take a place, or refuse the connection."""
        super().connection_made(transport)
        cast(WriteTransport, transport).set_write_buffer_limits(high=limits.WRITE_BUFFER)
        _limit_kernel_buffers(transport)
        if not self._connections.add(self):
            self._refuse(_FULL)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back. What was received and not handled is dropped."""
        self._connections.discard(self)
        self._released()
        # With the error, a handler that waits for its client would raise it. The traceback and the future of an error refer
        # to each other: they would keep the connection in memory until the next garbage collection, which comes late.
        super().connection_lost(None)
        self._messages.clear()

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
        """Send a response, and then wait for the next request, or for the turn of one that is already here."""
        self.enter(Phase.RESPONSE)
        self._read_before = self._bytes_read()
        try:
            if not isinstance(resp, web.FileResponse):
                return await self._send(request, resp, start_time)
            with self._connections.file() as has_place:
                self._sends_file = has_place
                response = resp if has_place else refusal(_FULL, request.get(REQUEST_ID))
                return await self._send(request, response, start_time)
        finally:
            self._sends_file = False
            self._released()
            if self._messages:
                self.enter(Phase.TURN)
                await self._connections.pipeline_turn()
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

    @property
    def responding(self) -> bool:
        """Whether a response is being sent."""
        return self._phase is Phase.RESPONSE

    def enter(self, phase: Phase) -> None:
        """Begin a phase and its deadline."""
        self._phase, self._since = phase, time.monotonic()
        self._connections.moved(self, phase)

    def response_rate(self, now: float) -> float | None:
        """Bytes per second that the client has read of the response; None if none is being sent, or only since just now."""
        seconds = now - self._since
        if self._phase is not Phase.RESPONSE or seconds < limits.FRESH_SECONDS:
            return None
        return (self._bytes_read() - self._read_before) / seconds

    def after_response(self, release: Callable[[], None]) -> None:
        """Call `release` once the next response was sent, or the connection is lost."""
        self._release = release

    def enforce_deadline(self, now: float) -> None:
        """Close the connection if its phase takes too long, or if its client reads nothing."""
        if self._stalled_since is not None and now - self._stalled_since > limits.STALL_SECONDS:
            self.abort()
        elif self._phase is Phase.IDLE and now - self._since > limits.IDLE_SECONDS:
            self.force_close()
        elif self._phase is Phase.HEAD and now - self._since > limits.HEAD_SECONDS:
            self._refuse(_HEAD_TOO_SLOW)
        elif self._phase is Phase.RESPONSE and now - self._since > limits.RESPONSE_SECONDS:
            self.abort()

    def abort(self) -> None:
        """End the connection without sending what is buffered."""
        if self.transport is None:
            return
        end = self.transport.get_extra_info("socket")
        if end is not None and self._phase is Phase.RESPONSE:
            # Otherwise the kernel would keep its buffer until the client reads, or for `STALL_SECONDS`.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        if end is None or not self._sends_file:
            self.transport.abort()
            return
        # The event loop sends files without the transport. After `abort` it would wait without end for the closed socket.
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        split(response)
        try:
            return await super().finish_response(request, response, start_time)
        finally:
            release_body(response)

    def _bytes_read(self) -> int:
        """The bytes that the kernel of the client has acknowledged; 0 where the system does not tell."""
        end = None if self.transport is None else self.transport.get_extra_info("socket")
        if end is None or not hasattr(socket, "TCP_INFO"):
            return 0
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED + 8)
        return int.from_bytes(info[_ACKNOWLEDGED:], sys.byteorder)

    def _released(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()

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


def _limit_kernel_buffers(transport: BaseTransport) -> None:
    """Bound what the kernel buffers for a client, and how long: files are sent without passing this process."""
    end = transport.get_extra_info("socket")
    if end is None:
        return
    for name, value in (
        ("TCP_USER_TIMEOUT", int(limits.STALL_SECONDS * 1000)),
        ("TCP_NOTSENT_LOWAT", limits.KERNEL_BUFFER),
    ):
        option = getattr(socket, name, None)  # some systems lack it
        if option is not None:
            end.setsockopt(socket.IPPROTO_TCP, option, value)

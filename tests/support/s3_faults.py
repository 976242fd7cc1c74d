"""A reverse proxy in front of a real S3 store that injects faults. The client and the store are real.

Requests are forwarded unchanged, including the Host header, because clients sign it.
"""

import asyncio
import random
import re
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from io import BytesIO

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from tests.support.s3 import S3Access

Forward = Callable[[], Awaitable[web.Response]]
Fault = Callable[[web.Request, Forward], Awaitable[web.StreamResponse]]
"""Responds to a request or closes its connection. Calling `Forward` sends the request to the store."""

ANY = "*"
"""In place of an operation's name: all operations without a fault of their own."""

_SHUTDOWN_SECONDS = 0.1
"""Longest wait for hanging requests at shutdown. 0 would mean to wait forever."""
_EXTENSIONS = ("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer", "if-none-match", "if-match")
_HOP_BY_HOP = ("Connection", "Expect", "Keep-Alive", "Transfer-Encoding", "Content-Length")


def respond(status: int, code: str) -> Fault:
    """Respond with an S3 error; the request does not reach the store."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        return _error(status, code)

    fault.__name__ = f"respond_{status}_{code}"
    return fault


async def lose_request(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Close the connection without forwarding the request."""
    _reset(request)
    return web.Response()


async def lose_response(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Forward the request, then close the connection without a response."""
    await forward()
    _reset(request)
    return web.Response()


async def hang(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Neither forward the request nor respond."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def hang_after(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Forward the request, then never respond."""
    await forward()
    return await hang(request, forward)


async def error_in_success(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Respond 200 with an error in the body, as S3 may do for a completion that fails late. Nothing reaches the store."""
    error = _error(200, "InternalError")
    error.set_status(200)
    return error


async def flip_a_byte(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Forward the request with its first byte changed."""
    body = await request.read()
    request._read_bytes = bytes([body[0] ^ 1]) + body[1:]
    return await forward()


async def cut_response(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Forward the request, then close the connection in the middle of the response body."""
    reply = await forward()
    body = reply.body if isinstance(reply.body, bytes) else b""
    started = web.StreamResponse(status=reply.status, headers=reply.headers)
    started.content_length = len(body)
    await started.prepare(request)
    await started.write(body[: len(body) // 2])
    _reset(request)
    return started


async def refuse_extensions(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Act as an old S3 store: no additional checksums, no chunked signatures, no conditional writes."""
    for name, value in request.headers.items():
        if name.lower().startswith(_EXTENSIONS) or "aws-chunked" in value or value.startswith("STREAMING-"):
            return _error(501, "NotImplemented")
    return await forward()


def slowly(bytes_per_second: int) -> Fault:
    """Limit the request body and the response body to this rate."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        step = max(1, bytes_per_second // 10)
        body = bytearray()
        async for chunk in request.content.iter_chunked(step):
            body += chunk
            await asyncio.sleep(len(chunk) / bytes_per_second)
        request._read_bytes = bytes(body)
        reply = await forward()
        content = reply.body if isinstance(reply.body, bytes) else b""
        trickle = web.StreamResponse(status=reply.status, headers=reply.headers)
        trickle.content_length = int(reply.headers.get("Content-Length", len(content)))
        await trickle.prepare(request)
        for start in range(0, len(content), step):
            await trickle.write(content[start : start + step])
            await asyncio.sleep(step / bytes_per_second)
        return trickle

    fault.__name__ = f"slowly_{bytes_per_second}"
    return fault


def add_headers(**headers: str) -> Fault:
    """Forward the request and add these headers to the response; an underscore in a name stands for a dash."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        reply = await forward()
        reply.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return reply

    fault.__name__ = "add_headers"
    return fault


def other_etags(access: S3Access, change: Callable[[str], str]) -> tuple[Fault, Fault]:
    """Faults for UploadPart and its completion: a store whose ETags of parts are what `change` makes of the usual ones."""
    usual: dict[str, str] = {}

    async def changed(request: web.Request, forward: Forward) -> web.StreamResponse:
        reply = await forward()
        etag = reply.headers["ETag"].strip('"')
        usual[change(etag)] = etag
        reply.headers["ETag"] = f'"{change(etag)}"'
        return reply

    async def completed(request: web.Request, forward: Forward) -> web.StreamResponse:
        # The body with the ETags is signed, so it cannot be changed; the proxy completes the upload itself.
        body = unescape((await request.read()).decode())
        numbers = [int(number) for number in re.findall("<PartNumber>(.*?)</PartNumber>", body)]
        etags = [usual[etag.strip('"')] for etag in re.findall("<ETag>(.*?)</ETag>", body)]
        bucket, _, key = request.path.removeprefix("/").partition("/")
        async with access.client() as client:
            await client.complete_multipart_upload(
                Bucket=bucket,
                Key=key,
                UploadId=request.query["uploadId"],
                MultipartUpload={"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in zip(numbers, etags, strict=True)]},
            )
        return web.Response(text="<CompleteMultipartUploadResult/>", content_type="application/xml")

    return changed, completed


def refuse_tokens(*tokens: str) -> Fault:
    """Act as a store for which these session tokens have expired."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        if request.headers.get("X-Amz-Security-Token") in tokens:
            return _error(400, "ExpiredToken")
        return await forward()

    fault.__name__ = "refuse_tokens"
    return fault


def respond_late(seconds: float) -> Fault:
    """Forward the request and respond after this delay."""

    async def fault(request: web.Request, forward: Forward) -> web.StreamResponse:
        reply = await forward()
        await asyncio.sleep(seconds)
        return reply

    fault.__name__ = f"respond_late_{seconds:g}"
    return fault


@dataclass
class S3Faults:
    """The running proxy. Operations have their S3 names."""

    endpoint_url: str = ""
    seen: list[str] = field(default_factory=list)
    """The requested operations, in order."""
    met: Counter[str] = field(default_factory=Counter)
    """How often each fault was injected, by its name."""
    _planned: dict[str, deque[Fault]] = field(default_factory=dict)
    _always: dict[str, Fault] = field(default_factory=dict)
    _chances: list[tuple[random.Random, Collection[str], Mapping[Fault, float]]] = field(default_factory=list)
    _change: asyncio.Condition = field(default_factory=asyncio.Condition)

    def next(self, operation: str, *faults: Fault) -> None:
        """Inject these faults into the next requests for `operation`, one each."""
        self._planned.setdefault(operation, deque()).extend(faults)

    def always(self, operation: str, fault: Fault) -> None:
        """Inject this fault into every request for `operation`, or for ANY."""
        self._always[operation] = fault

    def randomly(self, rng: random.Random, chances: Mapping[Fault, float], *, operations: Collection[str] = ()) -> None:
        """Inject each fault with its probability (sum at most 1) into these operations, by default into all.

        Can be called again for other operations. `next` and `always` have priority.
        """
        assert sum(chances.values()) <= 1
        self._chances.append((rng, operations, chances))

    def heal(self) -> None:
        """Remove all faults."""
        self._planned.clear()
        self._always.clear()
        self._chances.clear()

    async def reached(self, operation: str) -> None:
        """Wait until `operation` was requested."""
        async with self._change:
            await self._change.wait_for(lambda: operation in self.seen)

    async def take(self, operation: str) -> Fault | None:
        """Record a request and return its fault, if any."""
        async with self._change:
            self.seen.append(operation)
            self._change.notify_all()
        fault = self._due(operation)
        if fault is not None:
            self.met[fault.__name__] += 1
        return fault

    def _due(self, operation: str) -> Fault | None:
        if planned := self._planned.get(operation):
            return planned.popleft()
        if (always := self._always.get(operation) or self._always.get(ANY)) is not None:
            return always
        for rng, operations, chances in self._chances:
            if not operations or operation in operations:
                drawn = rng.random()
                for fault, chance in chances.items():
                    drawn -= chance
                    if drawn < 0:
                        return fault
        return None


@asynccontextmanager
async def s3_faults(upstream: str) -> AsyncIterator[S3Faults]:
    """Run a proxy on a free loopback port in front of the store at `upstream`."""
    faults = S3Faults()
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def handle(request: web.Request) -> web.StreamResponse:
            async def forward() -> web.Response:
                return await _forward(session, upstream, request)

            fault = await faults.take(operation(request))
            return await (fault(request, forward) if fault else forward())

        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            faults.endpoint_url = f"http://{host}:{port}"
            yield faults
        finally:
            await runner.cleanup()


def operation(request: web.Request) -> str:
    """Return the S3 name of the operation of a path-style request, or its method."""
    _, _, key = request.path.removeprefix("/").partition("/")
    query = request.query
    if not key:
        listing = "ListMultipartUploads" if "uploads" in query else "ListObjectsV2"
        return {"PUT": "CreateBucket", "HEAD": "HeadBucket", "GET": listing}.get(request.method, request.method)
    if "partNumber" in query:
        return "UploadPart"
    if "uploadId" in query:
        return {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[request.method]
    if "uploads" in query:
        return "CreateMultipartUpload"
    return {"PUT": "PutObject", "HEAD": "HeadObject", "GET": "GetObject", "DELETE": "DeleteObject"}[request.method]


async def _forward(session: aiohttp.ClientSession, upstream: str, request: web.Request) -> web.Response:
    url = URL(upstream + request.raw_path, encoded=True)
    headers = CIMultiDict(request.headers)
    for name in _HOP_BY_HOP:
        headers.popall(name, None)
    body = BytesIO(await request.read())
    async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as reply:
        response_headers = CIMultiDict(reply.headers)
        for name in _HOP_BY_HOP[:-1]:
            response_headers.popall(name, None)
        return web.Response(status=reply.status, headers=response_headers, body=await reply.read() or None)


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


def _error(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>injected fault</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")

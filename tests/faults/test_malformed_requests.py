"""Thousands of mutated requests: every response has the contract's form, and the log has no traceback."""

import asyncio
import json
import os
import random
import re
from http import HTTPStatus
from urllib.parse import urlsplit

from tests.support.program import Program
from tests.support.raw_requests import mutated_request
from tests.support.scene import Scene

_REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "3000"))
"""By hand, 20,000 take about a minute."""
_AT_ONCE = 32
_PATIENCE = 0.15
"""Seconds that an unfinished request waits for a response before its sender gives up."""
_JSON = (b"application/json", b"application/problem+json")
_HEAD = re.compile(rb"HTTP/\d\.\d (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n")


async def exchange(program: Program, data: bytes) -> bytes:
    """Send bytes, end the sending side, and return what comes back within a short time."""
    address = urlsplit(program.address)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    received = b""
    try:
        writer.write(data)
        async with asyncio.timeout(_PATIENCE):
            while chunk := await reader.read(65536):
                received += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return received


def check(data: bytes, received: bytes) -> None:
    """Check every response in the received bytes. A response to HEAD has the length of a body, but no body."""
    rest = received
    while rest:
        head = _HEAD.match(rest)
        assert head, (data, received)
        status, rest = int(head[1]), rest[head.end() :]
        if status == HTTPStatus.CONTINUE:
            continue
        fields = dict(line.lower().split(b": ", 1) for line in head[2].splitlines())
        assert status < HTTPStatus.INTERNAL_SERVER_ERROR, (data, received)
        assert fields[b"server"] == b"contact-exports", (data, received)
        assert fields[b"x-request-id"], (data, received)
        size = int(fields.get(b"content-length", b"0"))
        if not size or not rest or rest.startswith(b"HTTP/"):
            continue
        body, rest = json.loads(rest[:size]), rest[size:]
        assert fields[b"content-type"].split(b";")[0] in _JSON, (data, received)
        assert status < HTTPStatus.BAD_REQUEST or body["message"], (data, received)


async def test_every_response_to_a_mutated_request_is_json_with_a_request_id_and_no_server_error(scene: Scene) -> None:
    rng = random.Random(20_000)
    authorization = f"Bearer {scene.space.key}".encode()
    limits = {f"RATE_LIMIT_{name}": "1000000/minute" for name in ("CREATE", "STATUS", "OTHER")}
    answered = 0
    async with scene.running(EXPORT_SLOTS="0", **limits) as program:

        async def send_some(count: int) -> None:
            nonlocal answered
            for _ in range(count):
                data = mutated_request(rng, authorization)
                received = await exchange(program, data)
                check(data, received)
                answered += bool(received)

        await asyncio.gather(*(send_some(_REQUESTS // _AT_ONCE) for _ in range(_AT_ONCE)))
        assert answered > _REQUESTS // 2
        wrong = [line for line in program.log if line.get("level") == "error" or line["event"] == "text"]
        assert not wrong, wrong[:3]
        assert scene.space.key not in str(program.log)
        assert await program.end() == 0

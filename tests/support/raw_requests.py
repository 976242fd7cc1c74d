"""Mutated HTTP requests for the fuzzer: valid requests with bytes changed, removed, repeated and inserted."""

import random

_PATHS = (
    "/healthz",
    "/readyz",
    "/nowhere",
    "/public-api/v1/contacts/exports",
    "/public-api/v1/contacts/exports/1",
    "/public-api/v1/contacts/exports/1/download",
    "/public-api/v1/contacts",
    "/public-api/v1/contacts/1",
    "/files/a/b.gz?expires=1&filename=a&signature=b",
    "http://host:1/healthz",
    "*",
    "//",
    "/%00%ff",
    "/../etc",
    "host:443",
)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS", "CONNECT", "TRACE", "PRI")
_BODY = b'{"start_date": "2024-01-15 00:00:00", "end_date": "2024-01-15 23:59:59"}'
_HEADERS = (
    b"Expect: 100-continue",
    b"Expect: miracles",
    b"Content-Length: 72",
    b"Content-Length: 7",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Content-Encoding: gzip",
    b"Content-Type: application/json",
    b"Content-Type: multipart/form-data; boundary=a",
    b"Content-Type: ;;;",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Range: bytes=0-0,2-3",
    b"If-Range: x",
    b"If-Modified-Since: yesterday",
    b"If-None-Match: *",
    b"Accept: application/problem+json",
    b"Accept-Encoding: gzip;q=x",
    b"Cookie: a=b; \xff=\xfe",
    b"Prefer: wait=1",
    b"X-Request-Id: mine",
    b"Host: [::1",
    b"Host: a@b:c",
    b"Idempotency-Key: \xe9",
    b"X-Forwarded-Proto: https",
    b"Keep-Alive: timeout=9",
    b"TE: trailers",
    b" folded: 1",
)
_FRAGMENTS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b" ",
    b":",
    b"\t",
    b"%",
    b"%zz",
    b"HTTP/1.1",
    b"\xc3\x28",
    b"0\r\n\r\n",
    b"A" * 300,
)


def mutated_request(rng: random.Random, authorization: bytes) -> bytes:
    """A request that is more or less HTTP. Some carry this value of the header Authorization."""
    path = rng.choice(_PATHS).encode()
    if rng.random() < 0.3:
        path += b"?" + rng.randbytes(rng.randrange(12)).replace(b" ", b"").replace(b"\n", b"")
    version = rng.choice((b"HTTP/1.1",) * 8 + (b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.9", b"HTTP/1.1x"))
    fields = [b"Host: x"] * (rng.random() < 0.9) + rng.sample(_HEADERS, rng.randrange(5))
    if rng.random() < 0.6:
        fields.append(b"Authorization: " + authorization)
    body = b""
    if rng.random() < 0.4:
        body = _BODY if rng.random() < 0.5 else b"48\r\n" + _BODY + b"\r\n0\r\n\r\n"
    lines = [rng.choice(_METHODS).encode() + b" " + path + b" " + version, *fields, b"", b""]
    data = bytearray(b"\r\n".join(lines) + body)
    for _ in range(rng.choice((0, 0, 1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(4)
        if change == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif change == 1:
            del data[at : at + rng.randrange(1, 20)]
        elif change == 2:
            data[at:at] = rng.choice(_FRAGMENTS)
        else:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
    return bytes(data)

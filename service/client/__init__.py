"""An API client for consumers: create an export, poll its status, download and verify the file."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import aiohttp

_CHUNK = 256 * 1024
_FIRST_PAUSE = 0.1
"""Seconds. Small exports finish within a second, so the first polls come sooner than Retry-After asks. The delay doubles
up to Retry-After, which costs few calls of the rate limit.
"""

_EXPECTED = (HTTPStatus.OK, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Responses to a status call after which polling continues."""


class ClientError(Exception):
    """An error response of the service, or a file that does not match its status."""


@dataclass(frozen=True, slots=True)
class Download:
    """A downloaded and verified file. `size` is in bytes, `sha256` in hex."""

    path: Path
    size: int
    sha256: str
    lines: int


class ExportClient:
    """Calls the API with the key of one Space. `base_url` is scheme, host and port."""

    def __init__(self, base_url: str, key: str) -> None:
        self._exports = f"{base_url.rstrip('/')}/public-api/v1/contacts/exports"
        self._readiness = f"{base_url.rstrip('/')}/readyz"
        # Sent with API calls only. A download link may name another host and needs no key.
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ready(self) -> None:
        """Wait until the service is ready (GET /readyz)."""
        while True:
            async with self._session.get(self._readiness) as response:
                if response.status == HTTPStatus.OK:
                    return
            await asyncio.sleep(_FIRST_PAUSE)

    async def create(self, **body: object) -> int:
        """Create an export and return its id. Raises ClientError with the service's message."""
        async with self._session.post(self._exports, json=body, headers=self._headers) as response:
            created = await response.json()
            if response.status != HTTPStatus.ACCEPTED:
                raise ClientError(f"{response.status}: {created['message']}")
            return int(created["export_id"])

    async def statuses(self, export_id: int) -> AsyncIterator[dict[str, Any]]:
        """Poll the status at the pace of Retry-After and yield each one, until the export ends. Raises ClientError."""
        pause = _FIRST_PAUSE
        while True:
            async with self._session.get(f"{self._exports}/{export_id}", headers=self._headers) as response:
                status: dict[str, Any] = await response.json()
                if response.status not in _EXPECTED:
                    raise ClientError(f"{response.status}: {status['message']}")
                retry_after = float(response.headers.get("Retry-After", "2"))
            if "status" in status:
                yield status
                if status["status"] not in ("queued", "processing"):
                    return
            await asyncio.sleep(min(pause, retry_after) if response.status == HTTPStatus.OK else retry_after)
            pause *= 2

    async def ended(self, export_id: int) -> dict[str, Any]:
        """Wait until an export ends and return its status. Raises ClientError."""
        return [status async for status in self.statuses(export_id)][-1]

    async def download(self, status: dict[str, Any], path: Path) -> Download:
        """Download the file of a completed export. Raises ClientError if its size, hash or line count is wrong."""
        digest, size = hashlib.sha256(), 0
        async with self._session.get(status["download_url"], auto_decompress=False) as response:
            if response.status != HTTPStatus.OK:
                raise ClientError(f"the download failed with HTTP status {response.status}")
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
        lines = await asyncio.to_thread(_count_lines, path)
        found = Download(path, size, digest.hexdigest(), lines)
        if (size, found.sha256, lines) != (status["file_size"], status["sha256"], status["row_count"]):
            raise ClientError("size, checksum or line count of the downloaded file differ from the status")
        return found


def _count_lines(path: Path) -> int:
    with gzip.open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))

"""The consumer's side: ask for an export, wait for it, download the file and verify it."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

_CHUNK = 256 * 1024
_FIRST_PAUSE = 0.1


class ClientError(Exception):
    """The service answered something else than was hoped for."""


@dataclass(frozen=True, slots=True)
class Download:
    """A downloaded file that is what the status promised."""

    path: Path
    size: int
    sha256: str
    lines: int


class ExportClient:
    """Calls the API of one Space. `base_url` is scheme, host and port."""

    def __init__(self, base_url: str, key: str) -> None:
        self._exports = f"{base_url.rstrip('/')}/public-api/v1/contacts/exports"
        self._readiness = f"{base_url.rstrip('/')}/readyz"
        # The key goes with API calls only: a download link is another host's, and complete in itself.
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ready(self) -> None:
        """Wait until the service says that it can work."""
        while True:
            async with self._session.get(self._readiness) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(_FIRST_PAUSE)

    async def create(self, **body: object) -> int:
        """Ask for an export and return its id. Raises ClientError with the service's message."""
        async with self._session.post(self._exports, json=body, headers=self._headers) as response:
            answer = await response.json()
            if response.status != 202:
                raise ClientError(f"{response.status}: {answer['message']}")
            return int(answer["export_id"])

    async def statuses(self, export_id: int) -> AsyncIterator[dict[str, Any]]:
        """The status again and again, at the pace the service asks for, until the export has ended."""
        pause = _FIRST_PAUSE
        while True:
            async with self._session.get(f"{self._exports}/{export_id}", headers=self._headers) as response:
                answer: dict[str, Any] = await response.json()
                if response.status not in (200, 429, 503):
                    raise ClientError(f"{response.status}: {answer['message']}")
                asked = float(response.headers.get("Retry-After", "2"))
            if "status" in answer:
                yield answer
                if answer["status"] not in ("queued", "processing"):
                    return
            # A small export is done at once: the first looks come sooner than asked for, few enough for the rate limit.
            await asyncio.sleep(min(pause, asked) if response.status == 200 else asked)
            pause *= 2

    async def ended(self, export_id: int) -> dict[str, Any]:
        """The status of an export once it has ended."""
        return [status async for status in self.statuses(export_id)][-1]

    async def download(self, status: dict[str, Any], path: Path) -> Download:
        """Fetch the file of a completed export. Raises ClientError unless size, checksum and lines are as promised."""
        digest, size = hashlib.sha256(), 0
        async with self._session.get(status["download_url"], auto_decompress=False) as response:
            if response.status != 200:
                raise ClientError(f"the download link answered {response.status}")
            with path.open("wb") as file:
                async for chunk in response.content.iter_chunked(_CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
        lines = await asyncio.to_thread(_count_lines, path)
        found = Download(path, size, digest.hexdigest(), lines)
        if (size, found.sha256, lines) != (status["file_size"], status["sha256"], status["row_count"]):
            raise ClientError("the downloaded file is not what the status promised")
        return found


def _count_lines(path: Path) -> int:
    with gzip.open(path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_CHUNK), b""))

"""Receives the file of an export from its first byte to its last, across broken connections and expired links."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Protocol

import aiohttp

from service.client.connections import NeverConnected, Unusable
from service.client.errors import DownloadBroken, NoFile, Unreachable, WrongFile
from service.client.transport import Notice, Transport
from service.client.unpack import Unpacker
from service.client.values import Export, Received
from service.model import StoredFile

_CHUNK = 256 * 1024
_MOST_FAILURES = 10
"""Connections in a row that brought no byte, after which the download fails. The pauses between them take two minutes."""
_MOST_REFUSED_LINKS = 3
"""Fresh links in a row that brought no byte, after which the download fails."""
_LONGEST_PAUSE = 30.0
_LINK_REFUSED = (400, 401, 403, 404, 410)
"""Stores respond to an expired link with one of these."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)", re.ASCII)

Renew = Callable[[int], Awaitable[Export]]
"""Calls the status of an export, which has a fresh link."""


class Receiver(Protocol):
    """Gets a file as it arrives, each byte once and in order. An error that it raises ends the download."""

    async def packed(self, data: bytes) -> None:
        """Bytes of the compressed file."""

    async def content(self, data: bytes) -> None:
        """Decompressed bytes; they can end inside a line."""


class _LinkRefused(Exception):
    """The store does not accept the link."""


class Fetch:
    """One download. The file of a completed export never changes, so a connection that broke is continued with a range."""

    def __init__(self, transport: Transport, export: Export, renew: Renew, notice: Notice) -> None:
        if export.file is None:
            raise NoFile(f"Export {export.export_id} is {export.status}: {export.message}")
        self._transport = transport
        self._export = export
        self._renew = renew
        self._notice = notice
        self._link = export.download_url
        self._expected = export.file
        self._unpacker = Unpacker()
        self._sha256 = hashlib.sha256()
        self._validator = ""
        self._size = 0
        self._resumed = 0
        self._fresh_links = 0

    async def into(self, receiver: Receiver) -> Received:
        """Give all bytes to the receiver, then verify them.

        Raises WrongFile if size, checksum, rows or compression are wrong; DownloadBroken if the file cannot be received;
        NoFile if it was deleted meanwhile; and what the receiver raises.
        """
        failures = refusals = 0
        if self._link is None:
            await self._renew_link()
        while self._size < self._expected.size:
            before = self._size
            try:
                await self._continue(receiver)
            except _LinkRefused as error:
                refusals = 1 if self._size > before else refusals + 1
                await self._fresh_link(str(error), refusals)
            except Unreachable as error:
                if isinstance(error, Unusable) or (isinstance(error, NeverConnected) and not self._size):
                    raise
                failures = 1 if self._size > before else failures + 1
                await self._pause(error, failures)
        self._unpacker.end()
        self._verify()
        return Received(self._expected, self._resumed, self._fresh_links)

    async def _continue(self, receiver: Receiver) -> None:
        """Receive what one response brings. Raises _LinkRefused or Unreachable before the end of the file."""
        assert self._link is not None
        headers = {"Accept-Encoding": "identity"}
        if self._size and self._validator:
            headers |= {"Range": f"bytes={self._size}-", "If-Range": self._validator}
        async with self._transport.open_link(self._link, headers) as response:
            skip = self._start_of(response)
            repeated = hashlib.sha256()
            async for chunk in response.content.iter_chunked(_CHUNK):
                again, fresh = chunk[:skip], chunk[skip:]
                skip -= len(again)
                repeated.update(again)
                if again and skip == 0 and repeated.digest() != self._sha256.digest():
                    raise WrongFile("The file changed during the download.")
                if fresh:
                    await self._take(fresh, receiver)
        if self._size < self._expected.size:
            raise Unreachable("The response ended early.")

    def _start_of(self, response: aiohttp.ClientResponse) -> int:
        """How many bytes of the body were received before. Raises _LinkRefused, Unreachable or DownloadBroken."""
        status = response.status
        if status in _LINK_REFUSED:
            raise _LinkRefused(f"status {status}")
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Unreachable(f"The store responds with status {status}.")
        if status == HTTPStatus.PARTIAL_CONTENT:
            found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
            if found is None or int(found[1]) != self._size:
                raise DownloadBroken(f"The store sent another range than the one from byte {self._size:,}.")
            return 0
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise WrongFile(f"The stored file ends at byte {self._size:,} of {self._expected.size:,}.")
        if status != HTTPStatus.OK:
            raise DownloadBroken(f"The store refuses the download with status {status}.")
        etag = response.headers.get("ETag", "")
        self._validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
        return self._size

    async def _take(self, chunk: bytes, receiver: Receiver) -> None:
        self._size += len(chunk)
        if self._size > self._expected.size:
            raise WrongFile(f"The received file is longer than {self._expected.size:,} bytes.")
        self._sha256.update(chunk)
        await receiver.packed(chunk)
        pieces = self._unpacker.feed(chunk)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            await receiver.content(piece)

    async def _pause(self, error: Unreachable, failures: int) -> None:
        """Wait before the next connection: not at all after one that brought bytes."""
        if failures >= _MOST_FAILURES:
            raise DownloadBroken(f"The download broke off at byte {self._size:,} and cannot be continued: {error}") from None
        self._resumed += failures == 1
        pause = min(2.0 ** (failures - 2), _LONGEST_PAUSE) if failures > 1 else 0
        self._notice(f"{error} The download continues at byte {self._size:,}{f' in {pause:g} s' if pause else ''}.")
        await asyncio.sleep(pause)

    async def _fresh_link(self, reason: str, refusals: int) -> None:
        if refusals > _MOST_REFUSED_LINKS:
            raise DownloadBroken(f"The store refuses fresh links ({reason}) at byte {self._size:,}.") from None
        await self._renew_link()
        self._fresh_links += 1
        self._notice(f"The link is refused ({reason}). The download continues with a fresh one at byte {self._size:,}.")

    async def _renew_link(self) -> None:
        renewed = await self._renew(self._export.export_id)
        if renewed.download_url is None:
            raise NoFile(f"Export {renewed.export_id} is {renewed.status}: {renewed.message}") from None
        self._link = renewed.download_url

    def _verify(self) -> None:
        expected, found = self._expected, StoredFile(self._unpacker.rows, self._size, self._sha256.hexdigest())
        for what, right, wrong in (
            ("size", expected.size, found.size),
            ("SHA-256", expected.sha256, found.sha256),
            ("number of rows", expected.row_count, found.row_count),
        ):
            if right != wrong:
                raise WrongFile(f"The {what} of the received file is {wrong}, not {right}.")

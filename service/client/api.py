"""The calls of the API, for the holder of a key."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from service.client.errors import NotTheService
from service.client.fetch import Fetch, Receiver
from service.client.target import FileTarget
from service.client.transport import Call, Notice, Reply, Transport
from service.client.values import Download, Export, Received, parse_export
from service.model import ExportRequest, ExportStatus

LONGEST_WAIT = 30
"""Seconds that the service holds a status call at most."""

_CONTACTS = "/public-api/v1/contacts"
_EXPORTS = f"{_CONTACTS}/exports"
_POLL_SECONDS = 2.0
_CALLS_LEFT_TO_OTHERS = 10
_READY_SECONDS = 0.1


def _silent(_: str) -> None:
    """Ignores notices."""


class ExportClient:
    """Calls the API with the key of one Space, as an asynchronous context manager.

    `base_url` is scheme, host and port, and the path before `/public-api` if there is one. Calls that meet a broken
    connection, 503 or a rate limit are repeated for up to `patience` seconds; `on_notice` gets one sentence for each wait.
    All calls raise Unauthorised, Refused, RateLimited, Unreachable or NotTheService, which are ClientErrors.
    """

    def __init__(self, base_url: str, key: str, *, patience: float = 300.0, on_notice: Notice = _silent) -> None:
        self._transport = Transport(base_url, key, patience, on_notice)
        self._notice = on_notice

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transport.__aexit__()

    async def ready(self) -> None:
        """Wait until the service is ready (GET /readyz)."""
        while not await self._transport.is_ok("/readyz"):
            await asyncio.sleep(_READY_SECONDS)

    async def create(self, request: ExportRequest, *, idempotency_key: str | None = None) -> int:
        """Create an export and return its id.

        `idempotency_key` makes sure that repeated calls create one export; by default it is random, so that this call can be
        repeated after a lost response. Raises Refused with `fields` for an invalid request.
        """
        headers = {"Idempotency-Key": idempotency_key or uuid4().hex}
        reply = await self._transport.call(Call("POST", _EXPORTS, body=_parameters(request), headers=headers))
        try:
            return int(reply.body["export_id"])
        except (KeyError, TypeError, ValueError):
            raise NotTheService("The response to the new export has no export_id; check the URL.") from None

    async def status(self, export_id: int, *, wait: int = 0) -> Export:
        """The state of an export, with a fresh link if it is completed.

        Waits for its end, but at most `wait` seconds; more than 30 count as 30.
        """
        return parse_export((await self._status(export_id, wait)).body)

    async def statuses(self, export_id: int, *, wait: int = LONGEST_WAIT) -> AsyncIterator[Export]:
        """The states of an export until it ends: one every `wait` seconds (1 to 30), and the last one as soon as it ends.

        While fewer than ten status calls of the rate limit are left, they come every 30 seconds.
        """
        pace = wait
        while True:
            reply = await self._status(export_id, pace)
            left = reply.headers.get("X-RateLimit-Remaining", "")
            pace = LONGEST_WAIT if left.isdecimal() and int(left) < _CALLS_LEFT_TO_OTHERS else wait
            export = parse_export(reply.body)
            yield export
            if not export.status.pending:
                return
            if "Preference-Applied" not in reply.headers:  # the service stops, or too many clients of the Space wait
                await asyncio.sleep(_POLL_SECONDS)

    async def wait(self, export_id: int) -> Export:
        """Wait until an export ends: completed, failed, cancelled or expired."""
        return [export async for export in self.statuses(export_id)][-1]

    async def list(self, *, status: ExportStatus | None = None) -> AsyncIterator[Export]:
        """The exports of the Space, newest first, without links. They are read page by page."""
        query = {} if status is None else {"status": status.value}
        async for item in self._pages(_EXPORTS, query):
            yield parse_export(item)

    async def cancel(self, export_id: int) -> Export:
        """Cancel an export, or delete the file of a completed one. One that has ended otherwise stays as it is."""
        return parse_export((await self._transport.call(Call("DELETE", f"{_EXPORTS}/{export_id}"))).body)

    async def contacts(self, request: ExportRequest, *, per_page: int = 1000) -> AsyncIterator[dict[str, Any]]:
        """The contacts of a window, newest first, as in the lines of a file. They are read page by page: no one snapshot."""
        query = {name: str(value) for name, value in _parameters(request).items()}
        async for item in self._pages(_CONTACTS, {**query, "per_page": str(per_page)}):
            yield item

    async def fetch(self, export: Export, receiver: Receiver) -> Received:
        """Give the file of a completed export to a receiver as it arrives, and verify it: see Fetch.into."""
        return await Fetch(self._transport, export, self.status, self._notice).into(receiver)

    async def download(self, export: Export, path: Path) -> Download:
        """Download the file of a completed export to `path`, which has it only once it is complete and verified.

        Continues after broken connections and expired links. An existing file is replaced. Raises WrongFile, DownloadBroken,
        NoFile or TargetError.
        """
        with FileTarget(path, replace=True) as target:
            received = await self.fetch(export, _Packed(target))
            await target.place()
        return Download(path, received)

    async def _status(self, export_id: int, wait: int) -> Reply:
        headers = {"Prefer": f"wait={wait}"} if wait else None
        return await self._transport.call(Call("GET", f"{_EXPORTS}/{export_id}", headers=headers))

    async def _pages(self, path: str, query: Mapping[str, str]) -> AsyncIterator[dict[str, Any]]:
        cursor = None
        while True:
            asked = {**query, "cursor": cursor} if cursor else query
            page = (await self._transport.call(Call("GET", path, query=asked))).body
            if "data" not in page or "next_cursor" not in page:
                raise NotTheService("The response is not a page of a list; check the URL.")
            for item in page["data"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return


class _Packed:
    """Writes the compressed file as it is."""

    def __init__(self, target: FileTarget) -> None:
        self._target = target

    async def packed(self, data: bytes) -> None:
        await self._target.write(data)

    async def content(self, data: bytes) -> None:
        """Nothing: it was only unpacked to count its lines."""


def _parameters(request: ExportRequest) -> dict[str, str | int]:
    return {
        "start_date": request.start_date.isoformat(" ", "seconds"),
        "end_date": request.end_date.isoformat(" ", "seconds"),
        **{extra.option: 1 for extra in request.extras},
    }

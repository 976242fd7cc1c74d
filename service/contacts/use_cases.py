"""The use cases of the contact API: list contacts, and look at one."""

import asyncio
from datetime import datetime
from functools import partial

import orjson

from service.contacts.pages import ContactPage, ContactPosition, PageQuery, read_page
from service.errors import ContactNotFound
from service.exports.priority import RequestPriority
from service.exports.windows import window_of_request
from service.failures import SourceUnavailable
from service.model import Caller, Extras
from service.postgres.contacts import ContactReads

_LARGE_PAGE = 500
"""Pages of more contacts than this share a part of the pool, so that small pages and single contacts find a connection."""
_PATIENCE = 4
"""How long a large page waits for its turn, in timeouts of a read: forty at once should queue, not fail."""


class Contacts:
    """The use cases of the contact API. Both raise SourceUnavailable, SourceData.

    `max_range_days` is the longest range of a list (None: any). At most `large_pages` large pages are read at once, which
    bounds the memory of the process. Exports do not wait for a request that reads from the contacts' database.
    """

    def __init__(
        self, reads: ContactReads, priority: RequestPriority, *, max_range_days: int | None, large_pages: int
    ) -> None:
        self._reads = reads
        self._priority = priority
        self._max_range_days = max_range_days
        self._large_pages = asyncio.Semaphore(large_pages)

    async def page(
        self,
        caller: Caller,
        dates: tuple[datetime, datetime],
        extras: Extras,
        *,
        position: ContactPosition | None,
        size: int,
    ) -> ContactPage:
        """Up to `size` contacts of the caller's Space created between two local times, newest first.

        Raises InvalidParameters for dates that are no window, and for a position with an id of another type.
        """
        window = window_of_request(caller, *dates, self._max_range_days)
        read = partial(read_page, PageQuery(caller.space_id, window, extras, position, size))
        with self._priority.paused():
            if size <= _LARGE_PAGE:
                return await self._reads.read(extras, read)
            await self._take_turn()
            try:
                return await self._reads.read(extras, read)
            finally:
                self._large_pages.release()

    async def find(self, caller: Caller, contact_id: str, extras: Extras) -> dict[str, object]:
        """A contact of the caller's Space, or the one it was merged into, as the body of the API.

        Raises ContactNotFound, also for text that is no id of the contacts' type.
        """
        with self._priority.paused():
            row = await self._reads.read(extras, lambda reader: reader.find(contact_id, caller.space_id))
        if row is None:
            raise ContactNotFound
        contact, *values = row
        keys = ("emails", "phones", "names", "locations", *map(str, extras))
        return {"id": contact, **{key: orjson.Fragment(text) for key, text in zip(keys, values, strict=True)}}

    async def _take_turn(self) -> None:
        """Wait until a large page may be read."""
        try:
            async with asyncio.timeout((_PATIENCE * self._reads.timeout).total_seconds()):
                await self._large_pages.acquire()
        except TimeoutError:
            raise SourceUnavailable(detail="too many large pages are being read") from None

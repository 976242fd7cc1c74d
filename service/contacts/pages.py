"""Reads and encodes one page of contacts, a slice at a time, so that its rows are never in memory at once."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.exports.stream.lines import encoder
from service.model import END_OF_TIME, Extras, Window
from service.postgres.contacts import ContactReader, Place

SMALLEST_ID, LARGEST_ID = -(2**63), 2**63 - 1
MAXIMUM_BYTES = 16 * 1024 * 1024
"""A page that has become longer than this ends early; the next page continues."""
_FIRST_ROWS = 201
"""Rows of the first slice: a page of the default size, and one row that shows whether another page follows."""
_SLICE_ROWS = 1000
"""Most rows of a slice: encoding them occupies the event loop for 0.5 ms."""
_SLICE_BYTES = 2 * 1024 * 1024
"""Target bytes of a slice, estimated from the rows before it."""


@dataclass(frozen=True, slots=True)
class ContactPosition:
    """A place in the list, which is ordered by creation time and id, newest first: after it, or before it if `newer`.

    `created_at` is text as the server writes it.
    """

    created_at: str
    contact_id: int
    newer: bool = False


@dataclass(frozen=True, slots=True)
class ContactPage:
    """One page as blocks of lines, newest first, and the positions of the pages on both sides, None if there is none."""

    blocks: Sequence[bytes]
    next: ContactPosition | None
    previous: ContactPosition | None


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Up to `size` contacts of a Space in a window; without a position the newest."""

    space_id: int
    window: Window
    extras: Extras
    position: ContactPosition | None
    size: int


@dataclass(frozen=True, slots=True)
class _Walk:
    """What was read, in the order of reading: blocks, the first and last place, and whether rows follow."""

    blocks: list[bytes]
    first: Place | None
    last: Place | None
    more: bool


async def read_page(query: PageQuery, reader: ContactReader) -> ContactPage:
    """Read a page. It has fewer contacts than asked for, and a next page, if they take more than MAXIMUM_BYTES."""
    asked = query.position
    if asked is not None and asked.newer:
        walk = await _walk(query, lambda place, rows: reader.newer(query.space_id, query.window.end, place, rows))
        # An empty page links to the contact it started from, which comes after it.
        created_at, contact_id = walk.first or (asked.created_at, min(asked.contact_id + 1, LARGEST_ID))
        previous = ContactPosition(*walk.last, newer=True) if walk.last and walk.more else None
        return ContactPage(walk.blocks[::-1], ContactPosition(created_at, contact_id), previous)
    walk = await _walk(query, lambda place, rows: reader.older(query.space_id, query.window.start, place, rows))
    following = ContactPosition(*walk.last) if walk.last and walk.more else None
    if asked is None:
        return ContactPage(walk.blocks, following, None)
    created_at, contact_id = walk.first or (asked.created_at, max(asked.contact_id - 1, SMALLEST_ID))
    return ContactPage(walk.blocks, following, ContactPosition(created_at, contact_id, newer=True))


async def _walk(query: PageQuery, read: Callable[[Place, int], Awaitable[Sequence[Any]]]) -> _Walk:
    """Read and encode slices from the position of the query on until the page is full."""
    asked, encode = query.position, encoder(query.extras)
    newer = asked is not None and asked.newer
    place = (_text(query.window.end), SMALLEST_ID) if asked is None else (asked.created_at, asked.contact_id)
    blocks: list[bytes] = []
    first = last = None
    rows_left, size, slice_rows, more = query.size, 0, _FIRST_ROWS, True
    while more and size < MAXIMUM_BYTES:
        wanted = min(slice_rows, rows_left + 1)
        rows = await read(place, wanted)
        more = len(rows) == wanted
        kept = rows[:rows_left]
        if not kept:
            break
        block = encode(row[:-1] for row in (reversed(kept) if newer else kept))
        blocks.append(block)
        place = last = (kept[-1]["created_at"], kept[-1]["id"])
        first = first or (kept[0]["created_at"], kept[0]["id"])
        rows_left -= len(kept)
        size += len(block)
        if len(kept) < len(rows):
            break
        slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES * len(kept) // len(block)))
    return _Walk(blocks, first, last, more)


def _text(instant: datetime) -> str:
    return "infinity" if instant == END_OF_TIME else instant.isoformat()

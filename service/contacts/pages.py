"""Reads and encodes one page of contacts, a slice at a time, so that its rows are never in memory at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from service.errors import InvalidParameters
from service.exports.stream.lines import encoder
from service.model import END_OF_TIME, Extras, Window
from service.postgres.contact_ids import IdType
from service.postgres.contacts import ContactReader, Place

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

    Time and id are text as the server writes them. The contact at this place is on the page if it is `included`.
    """

    created_at: str
    contact_id: str
    newer: bool = False
    included: bool = False

    def turned(self) -> "ContactPosition":
        """The position of the contacts on its other side."""
        return replace(self, newer=not self.newer, included=not self.included)


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
    """What was read, in the order of reading: blocks, the first and last contact, and whether contacts follow."""

    blocks: list[bytes]
    first: ContactPosition | None
    last: ContactPosition | None
    more: bool


async def read_page(query: PageQuery, reader: ContactReader) -> ContactPage:
    """Read a page. It has fewer contacts than asked for, and a next page, if they take more than MAXIMUM_BYTES.

    Raises InvalidParameters if the position is of a database with another type of ids.
    """
    asked = query.position
    walk = await _walk(query, reader)
    following = walk.last if walk.more else None
    if asked is None:
        return ContactPage(walk.blocks, following, None)
    # An empty page links to the contact it started from.
    back = replace(walk.first, newer=not asked.newer) if walk.first else asked.turned()
    if asked.newer:
        return ContactPage(walk.blocks[::-1], back, following)
    return ContactPage(walk.blocks, following, back)


async def _walk(query: PageQuery, reader: ContactReader) -> _Walk:
    """Read and encode slices from the position of the query on until the page is full."""
    newer = query.position is not None and query.position.newer
    encode = encoder(query.extras, ignored=1)
    place = _start(query, reader.ids)
    blocks: list[bytes] = []
    first = last = None
    rows_left, size, slice_rows, more = query.size, 0, _FIRST_ROWS, True
    while more and size < MAXIMUM_BYTES:
        wanted = min(slice_rows, rows_left + 1)
        if newer:
            rows = await reader.newer(query.space_id, query.window.end, place, wanted)
        else:
            rows = await reader.older(query.space_id, query.window.start, place, wanted)
        more = len(rows) == wanted
        kept: Sequence[Any] = rows[:rows_left]
        if not kept:
            break
        block = encode(reversed(kept) if newer else kept)
        blocks.append(block)
        place = Place(kept[-1]["created_at"], kept[-1]["id"])
        first, last = first or _position(kept[0], newer=newer), _position(kept[-1], newer=newer)
        rows_left -= len(kept)
        size += len(block)
        if len(kept) < len(rows):
            break
        slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES * len(kept) // len(block)))
    return _Walk(blocks, first, last, more)


def _start(query: PageQuery, ids: IdType) -> Place:
    """Where reading begins. Raises InvalidParameters."""
    if query.position is None:
        return Place(_text(query.window.end), ids.smallest)
    contact_id = ids.parse(query.position.contact_id)
    if contact_id is None:
        raise InvalidParameters({"cursor": ["cursor is no longer valid, because the type of the ids has changed."]})
    return Place(query.position.created_at, contact_id, query.position.included)


def _position(row: Any, *, newer: bool) -> ContactPosition:
    return ContactPosition(row["created_at"], str(row["id"]), newer=newer)


def _text(instant: datetime) -> str:
    return "infinity" if instant == END_OF_TIME else instant.isoformat()

"""Lists page by page: signed cursors, the query parameters that every list has, and the envelope of a page.

A list declares itself as a `PagedList`: its name, its filters, and how a position in it is written in a cursor.
"""

import asyncio
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import TypedDict
from yarl import URL

from service.errors import InvalidParameters
from service.web.parameters import DEFAULT_PER_PAGE, PerPage, errors_by_field, sent_values

_MAC_BYTES = 16
_SLICE = 100
"""Rows rendered before other tasks may run: about 1 ms."""

Row = TypeVar("Row")
Item = TypeVar("Item")
Place = TypeVar("Place")
Filters = TypeVar("Filters", bound=BaseModel)


class Cursors:
    """Pagination cursors: opaque, signed, and valid only for the list they were issued for.

    Replicas that share the secret accept each other's cursors. `secret` is awaited at each use.
    """

    def __init__(self, secret: Callable[[], Awaitable[bytes]]) -> None:
        self._secret = secret

    async def seal(self, place: bytes, *bound: str) -> str:
        """A cursor that holds `place` and opens only with the same `bound`: which list, whose, and with which filters."""
        fields = (*(text.encode() for text in bound), place)
        message = b"\n".join([b"cursor", *(field.hex().encode() for field in fields)])
        mac = hmac.digest(await self._secret(), message, "sha256")[:_MAC_BYTES]
        return urlsafe_b64encode(place + mac).rstrip(b"=").decode()

    async def open(self, cursor: str, *bound: str) -> bytes | None:
        """The place in a cursor; None if the cursor was changed, or was not issued here for the same `bound`."""
        try:
            place = urlsafe_b64decode(cursor.encode("ascii") + b"==")[:-_MAC_BYTES]
        except ValueError:
            return None
        return place if hmac.compare_digest(await self.seal(place, *bound), cursor) else None


@dataclass(frozen=True, slots=True)
class PagedList(Generic[Filters, Place]):
    """A list: `pack` and `unpack` convert a position in it to the bytes in a cursor and back."""

    name: str
    filters: type[Filters]
    cursor_message: str
    """The error for a cursor of another list, Space or filter."""
    pack: Callable[[Place], bytes]
    unpack: Callable[[bytes], Place]


class PageParameters(BaseModel):
    """The query parameters of every list, except `cursor`, which is validated against the filters."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    per_page: PerPage = DEFAULT_PER_PAGE


@dataclass(frozen=True, slots=True)
class PageRequest(Generic[Filters, Place]):
    """What a list call asks for: the first page if `position` is None."""

    paged: PagedList[Filters, Place]
    filters: Filters
    per_page: int
    position: Place | None
    sent: Mapping[str, str]
    """The parameters as sent, without the cursor: the addresses of other pages repeat them."""
    bound: tuple[str, ...]
    """What the cursors of this list are valid for."""


class PageBody(TypedDict, Generic[Item]):
    """The envelope of a page. The cursor and the address of a neighbouring page are null if that page does not exist."""

    data: list[Item]
    path: str
    per_page: int
    next_cursor: str | None
    next_page_url: str | None
    prev_cursor: str | None
    prev_page_url: str | None


async def parse_page_request(
    paged: PagedList[Filters, Place], query: MultiMapping[str], space_id: int, cursors: Cursors
) -> PageRequest[Filters, Place]:
    """The page that a query asks for. Raises InvalidParameters naming every invalid parameter; others are ignored."""
    names = [*paged.filters.model_fields, *PageParameters.model_fields, "cursor"]
    given = sent_values(query, names)
    cursor = given.pop("cursor", None)
    errors: dict[str, list[str]] = {}
    filters = _validated(paged.filters, given, errors)
    page = _validated(PageParameters, given, errors)
    # Bound to what the filters mean, not to how they were written: `0` is the same as nothing.
    meant = given if filters is None else filters.model_dump()
    bound = (paged.name, str(space_id), *(str(meant.get(name, "")) for name in paged.filters.model_fields))
    place = await cursors.open(cursor, *bound) if isinstance(cursor, str) else None
    if cursor is not None and place is None:
        errors["cursor"] = [f"cursor {paged.cursor_message}"]
    if filters is None or page is None or errors:
        raise InvalidParameters(errors)
    position = None if place is None else paged.unpack(place)
    sent = {name: query[name] for name in given}
    return PageRequest(paged, filters, page.per_page, position, sent, bound)


async def render_page(
    asked: PageRequest[Filters, Place],
    items: list[Item],
    cursors: Cursors,
    address: str,
    *,
    after: Place | None,
    before: Place | None,
) -> PageBody[Item]:
    """The body of a page. `address` is that of the list, without a query.

    `after` and `before` are the positions where the next and the previous page begin; None if there is no such page.
    """

    async def neighbour(position: Place | None) -> tuple[str, str] | tuple[None, None]:
        if position is None:
            return None, None
        cursor = await cursors.seal(asked.paged.pack(position), *asked.bound)
        return cursor, str(URL(address).with_query({**asked.sent, "cursor": cursor}))

    next_cursor, next_page_url = await neighbour(after)
    prev_cursor, prev_page_url = await neighbour(before)
    return {
        "data": items,
        "path": address,
        "per_page": asked.per_page,
        "next_cursor": next_cursor,
        "next_page_url": next_page_url,
        "prev_cursor": prev_cursor,
        "prev_page_url": prev_page_url,
    }


async def render_in_slices(rows: Sequence[Row], render: Callable[[Row], Item]) -> list[Item]:
    """Render the items of a page. Other tasks run after every 100 rows."""
    items: list[Item] = []
    for start in range(0, len(rows), _SLICE):
        items += [render(row) for row in rows[start : start + _SLICE]]
        await asyncio.sleep(0)
    return items


def _validated(model: type[Filters], given: Mapping[str, object], errors: dict[str, list[str]]) -> Filters | None:
    """The parameters as `model` reads them; None if some are invalid, and then their messages are added to `errors`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        errors.update(errors_by_field(error))
        return None

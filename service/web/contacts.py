"""Handlers of the contact API: each parses the request to a value, calls one use case and renders the result."""

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from service.contacts.pages import ContactPosition
from service.contacts.use_cases import Contacts
from service.web.bodies import page_response
from service.web.contact_bodies import ContactFilters, chosen_extras, parse_options
from service.web.exports import CURSORS
from service.web.gate import CALLER
from service.web.origin import origin_of
from service.web.paging import PageBody, PagedList, parse_page_request, render_page

CONTACTS_PATH = "/public-api/v1/contacts"

CONTACTS = web.AppKey("contacts", Contacts)


async def list_contacts(request: web.Request) -> web.StreamResponse:
    """GET /contacts"""
    caller, cursors = request[CALLER], request.app[CURSORS]
    asked = await parse_page_request(CONTACT_LIST, request.query, caller.space_id, cursors)
    dates = asked.filters.start_date, asked.filters.end_date
    extras = chosen_extras(asked.filters)
    address = f"{origin_of(request)}{CONTACTS_PATH}"
    page = await request.app[CONTACTS].page(caller, dates, extras, position=asked.position, size=asked.per_page)
    no_items: list[Any] = []
    body: PageBody[Any] = await render_page(asked, no_items, cursors, address, after=page.next, before=page.previous)
    return await page_response(request, {**body, "data": orjson.Fragment(_array(page.blocks))})


async def show_contact(request: web.Request) -> web.StreamResponse:
    """GET /contacts/{contact_id}"""
    extras = parse_options(request.query)
    found = await request.app[CONTACTS].find(request[CALLER], request.match_info["contact_id"], extras)
    return await page_response(request, found)


def _array(blocks: Sequence[bytes]) -> bytes:
    """The JSON array of the contacts in blocks of lines. Line breaks occur only between contacts."""
    return b"[%b]" % b"".join(blocks)[:-1].replace(b"\n", b",")


def _pack(position: ContactPosition) -> bytes:
    marks = ("-" if position.newer else "+") + ("=" if position.included else ".")
    return f"{marks}{position.created_at}\n{position.contact_id}".encode()


def _unpack(place: bytes) -> ContactPosition:
    created_at, _, contact_id = place[2:].decode().partition("\n")
    return ContactPosition(created_at, contact_id, newer=place[:1] == b"-", included=place[1:2] == b"=")


CONTACT_LIST = PagedList(
    name="contacts",
    filters=ContactFilters,
    cursor_message="must come from a previous response of this list, for the same Space, dates and options.",
    pack=_pack,
    unpack=_unpack,
)

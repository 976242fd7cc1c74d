"""The list of exports: its query parsed to a value, its page rendered in the contract's envelope."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from multidict import MultiMapping
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from yarl import URL

from service.errors import InvalidParameters
from service.exports.use_cases import ExportPage, ExportView
from service.model import Caller, ExportJob, ExportStatus, Position
from service.web import payloads
from service.web.cursors import Cursors

MAXIMUM_PER_PAGE = 5000
_SLICE = 100
"""Exports that are rendered without letting anything else run: about a millisecond."""

_NUMBER = re.compile(r"[1-9][0-9]{0,3}", re.ASCII)
_STATES = ", ".join(ExportStatus)


def _per_page(value: object) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value) and int(value) <= MAXIMUM_PER_PAGE:
        return int(value)
    raise PydanticCustomError("per_page", f"must be a whole number from 1 to {MAXIMUM_PER_PAGE}.")


def _status(value: object) -> ExportStatus:
    if isinstance(value, str) and value in tuple(ExportStatus):
        return ExportStatus(value)
    raise PydanticCustomError("status", f"must be one of {_STATES}.")


class ListParameters(BaseModel):
    """The parameters of GET /contacts/exports that stand for themselves; a cursor belongs to the others."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: Annotated[ExportStatus | None, BeforeValidator(_status)] = None
    per_page: Annotated[int, BeforeValidator(_per_page)] = 200


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a list call asks for; `sent` are its parameters without the cursor, for the addresses of other pages."""

    status: ExportStatus | None
    per_page: int
    position: Position | None
    sent: Mapping[str, str]


async def query(parameters: MultiMapping[str], caller: Caller, cursors: Cursors) -> ListQuery:
    """The query of a list call. Raises InvalidParameters naming every faulty parameter."""
    values = {name: parameters.getall(name) for name in ("status", "per_page", "cursor") if name in parameters}
    given = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
    cursor, position, faults = given.pop("cursor", None), None, {}
    try:
        fields = ListParameters.model_validate(given)
    except ValidationError as error:
        fields, faults = ListParameters(), payloads.field_faults(error)
    if cursor is not None:
        status = given.get("status", "")
        if isinstance(cursor, str) and isinstance(status, str):
            position = await cursors.open(cursor, *_bound(caller, status))
        if position is None:
            faults["cursor"] = ["cursor must be one that this list gave, with the same key's Space and the same status."]
    if faults:
        raise InvalidParameters(faults)
    return ListQuery(fields.status, fields.per_page, position, {name: parameters[name] for name in given})


async def page(found: ExportPage, asked: ListQuery, caller: Caller, cursors: Cursors, address: str) -> dict[str, Any]:
    """The body of GET /contacts/exports; `address` is that of the list without a query."""
    body: dict[str, Any] = {
        "data": await _items(found.jobs),
        "path": address,
        "per_page": asked.per_page,
    }
    for side, position in (("next", found.next), ("prev", found.previous)):
        cursor = None if position is None else await cursors.seal(position, *_bound(caller, asked.status or ""))
        body[f"{side}_cursor"] = cursor
        body[f"{side}_page_url"] = cursor and str(URL(address).with_query({**asked.sent, "cursor": cursor}))
    return body


async def _items(jobs: Sequence[ExportJob]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for start in range(0, len(jobs), _SLICE):
        items += [payloads.status(ExportView(job, None)) for job in jobs[start : start + _SLICE]]
        await asyncio.sleep(0)
    return items


def _bound(caller: Caller, status: str) -> tuple[str, str, str]:
    return "exports", str(caller.space_id), status

"""Types of request parameters, for bodies and queries: what they accept, what their errors say, and their JSON Schema."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from multidict import MultiMapping
from pydantic import BeforeValidator, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

DEFAULT_PER_PAGE = 200
MAXIMUM_PER_PAGE = 5000

_LOCAL_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)
_PLAIN_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def _local_time(value: object) -> datetime:
    try:
        # Python 3.14 reads the hour 24 as the next day.
        if isinstance(value, str) and _LOCAL_TIME.fullmatch(value) and value[11:13] != "24":
            return datetime.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("local_time", "must be a valid date and time in the format YYYY-MM-DD HH:MM:SS.")


def _flag(value: object) -> bool:
    match value:
        case bool():
            return value
        case int() if value in (0, 1):
            return value == 1
        case "0" | "1":
            return value == "1"
        case _:
            raise PydanticCustomError("flag", "must be 1 or 0.")


def _query_flag(value: object) -> bool:
    match value:
        case "0" | "false":
            return False
        case "1" | "true":
            return True
        case _:
            raise PydanticCustomError("flag", "must be 1 or 0.")


def _per_page(value: object) -> int:
    if isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value) and int(value) <= MAXIMUM_PER_PAGE:
        return int(value)
    raise PydanticCustomError("per_page", f"must be a whole number from 1 to {MAXIMUM_PER_PAGE}.")


LocalTime = Annotated[
    datetime,
    BeforeValidator(_local_time),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^{_LOCAL_TIME.pattern}$",
            "description": "A local time of the Space, inclusive: YYYY-MM-DD HH:MM:SS.",
        }
    ),
]
"""A naive local time of the Space, written `YYYY-MM-DD HH:MM:SS`."""
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"enum": [0, 1, False, True, "0", "1"]})]
"""An option: 1 or 0, as a number, a boolean or text."""
QueryFlag = Annotated[bool, BeforeValidator(_query_flag), WithJsonSchema({"enum": [0, 1, False, True]})]
"""An option in a query: `1`, `0`, `true` or `false`."""
PerPage = Annotated[
    int,
    BeforeValidator(_per_page),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAXIMUM_PER_PAGE, "description": "Items per page."}),
]
"""Items per page of a list."""


def sent_values(query: MultiMapping[str], names: Iterable[str]) -> dict[str, str | list[str]]:
    """The parameters with these names in a query. One that was sent twice stays a list, which no type here accepts."""
    values = {name: query.getall(name) for name in names if name in query}
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def errors_by_field(error: ValidationError) -> dict[str, list[str]]:
    """The messages of a model's validation error, by field and in the order of the fields."""
    messages: dict[str, list[str]] = {}
    for entry in error.errors(include_url=False, include_input=False):
        field = str(entry["loc"][0])
        message = "is required." if entry["type"] == "missing" else entry["msg"]
        messages.setdefault(field, []).append(f"{field} {message}")
    return messages

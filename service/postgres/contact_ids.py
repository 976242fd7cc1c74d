"""The ids of contacts: which type they have in a database, and how statements and clients write them.

Bigint is the type of the service's own tables. An adopter's ids may also be uuid or text: consumers then get strings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import assert_never

from service.failures import SourceUnreadable
from service.postgres.extras import Connection
from sql import statement

_CALL_TIMEOUT = timedelta(seconds=10)
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII)

ContactId = int | str
"""An id as a parameter of a statement: a number for bigint, else text."""


class IdType(StrEnum):
    """The type of every column with ids of contacts; the value is its name in SQL."""

    BIGINT = "bigint"
    UUID = "uuid"
    TEXT = "text"

    @property
    def smallest(self) -> ContactId:
        """An id that no other one precedes in the order of lists."""
        match self:
            case IdType.BIGINT:
                return _SMALLEST
            case IdType.UUID:
                return "00000000-0000-0000-0000-000000000000"
            case IdType.TEXT:
                return ""
            case _:
                assert_never(self)

    def parse(self, text: str) -> ContactId | None:
        """The id that this text means; None if it is none of this type. A uuid may have capital letters."""
        match self:
            case IdType.BIGINT:
                return int(text) if _INTEGER.fullmatch(text) and _SMALLEST <= int(text) <= _LARGEST else None
            case IdType.UUID:
                return text if _UUID.fullmatch(text) else None
            case IdType.TEXT:
                return text if _storable(text) else None
            case _:
                assert_never(self)

    def fit(self, text: str) -> str:
        """A statement for ids of this type, made from the one for bigint by its markers, which are comments.

        A uuid is selected as text. Text is ordered and compared by its bytes, so that every page of a list has one order.
        """
        match self:
            case IdType.BIGINT:
                shown = ordered = ""
            case IdType.UUID:
                shown, ordered = "::text", ""
            case IdType.TEXT:
                shown, ordered = "", ' COLLATE "C"'
            case _:
                assert_never(self)
        text = text.replace("/* shown */", shown).replace("/* ordered */", ordered)
        return text.replace("::bigint/* id */", f"::{self}")


ID_TYPES: Mapping[str, IdType] = {
    "bigint": IdType.BIGINT,
    "integer": IdType.BIGINT,
    "uuid": IdType.UUID,
    "text": IdType.TEXT,
    "character varying": IdType.TEXT,
}
"""The accepted types of a column with ids, as the server names them."""
ID_NAMES = "bigint, uuid or text"
"""The types in a sentence for operators."""


@dataclass(frozen=True, slots=True)
class ContactIds:
    """What a database says about its ids: their type, and whether the definition of `contacts` excludes null and repeats."""

    type: IdType
    unique: bool


async def read_contact_ids(connection: Connection) -> ContactIds:
    """The ids of the relation `contacts`. Raises SourceUnreadable if there are none or their type is not accepted."""
    row = await connection.fetchrow(statement("contact_ids"), timeout=_CALL_TIMEOUT.total_seconds())
    if row is None:
        raise SourceUnreadable(detail="contacts.id is missing")
    if row["type"] not in ID_TYPES:
        raise SourceUnreadable(detail=f"contacts.id is {row['type']} instead of {ID_NAMES}")
    return ContactIds(ID_TYPES[row["type"]], row["are_unique"])


def _storable(text: str) -> bool:
    """Whether Postgres can store a text: no character NUL, and no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text

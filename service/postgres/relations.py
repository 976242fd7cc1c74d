"""Checks the three contact relations (tables or views) that an export reads."""

from collections.abc import Mapping

import asyncpg

from service.errors import SchemaMismatch
from sql import statement

_ID = ("bigint", "integer")
_TEXT = ("text", "character varying")
_INSTANT = ("timestamp with time zone",)

CONTRACT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "contacts": {
        "id": _ID,
        "space_id": _ID,
        "created_at": _INSTANT,
        "email": _TEXT,
        "name": _TEXT,
        "phone": _TEXT,
        "location": _TEXT,
        "merged_into": _ID,
    },
    "contact_emails": {"contact_id": _ID, "email": _TEXT, "last_seen_at": _INSTANT},
    "comet_tokens": {"contact_id": _ID, "token": _TEXT, "last_seen_at": _INSTANT},
}
"""Relations, columns and accepted types. This is a contract: adopters map their own tables onto it."""


OPTIONAL: Mapping[str, Mapping[str, tuple[str, ...]]] = {"contacts": {"custom_fields": ("jsonb", "json")}}
"""Columns that a relation may lack; if they exist, their types are checked too."""


async def check_relations(connection: asyncpg.Connection) -> None:
    """Raises SchemaMismatch that lists every relation and column that is missing or has a different type."""
    found = await found_relations(connection)
    mismatches = []
    for relation, columns in CONTRACT.items():
        if relation not in found:
            mismatches.append(f"{relation} is missing")
            continue
        for column, types in columns.items():
            actual = found[relation].get(column)
            if actual is None:
                mismatches.append(f"{relation}.{column} is missing")
            elif actual not in types:
                mismatches.append(f"{relation}.{column} is {actual} instead of {types[0]}; a view may cast it")
        for column, types in OPTIONAL.get(relation, {}).items():
            actual = found[relation].get(column, types[0])
            if actual not in types:
                mismatches.append(f"{relation}.{column} is {actual} instead of {types[0]}; a view may cast it")
    if mismatches:
        raise SchemaMismatch("The contacts cannot be read: " + "; ".join(mismatches) + ".")


async def found_relations(connection: asyncpg.Connection) -> dict[str, dict[str, str]]:
    """Columns and their types of the existing contact relations, by relation."""
    found: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(statement("contact_relations")):
        found.setdefault(row["relation"], {})[row["column"]] = row["type"]
    return found

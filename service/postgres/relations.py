"""Checks the three contact relations (tables or views) that an export reads."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter

import asyncpg

from service.errors import SchemaMismatch
from service.failures import SourceData
from service.postgres.contact_ids import ID_NAMES, ID_TYPES, IdType
from service.postgres.driver_errors import source_errors
from sql import statement

_SPACE_ID = ("bigint", "integer")
_CONTACT_ID = tuple(ID_TYPES)
_TEXT = ("text", "character varying")
_INSTANT = ("timestamp with time zone",)

CONTRACT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "contacts": {
        "id": _CONTACT_ID,
        "space_id": _SPACE_ID,
        "created_at": _INSTANT,
        "email": _TEXT,
        "name": _TEXT,
        "phone": _TEXT,
        "location": _TEXT,
        "merged_into": _CONTACT_ID,
    },
    "contact_emails": {"contact_id": _CONTACT_ID, "email": _TEXT, "last_seen_at": _INSTANT},
    "comet_tokens": {"contact_id": _CONTACT_ID, "token": _TEXT, "last_seen_at": _INSTANT},
}
"""Relations, columns and accepted types. This is a contract: adopters map their own tables onto it."""
_REFERENCES = (("contacts", "merged_into"), ("contact_emails", "contact_id"), ("comet_tokens", "contact_id"))
"""Columns that have the ids of contacts, and so the type of contacts.id."""
_PROBES = {"contacts": "probe_contacts", "contact_emails": "probe_contact_emails", "comet_tokens": "probe_comet_tokens"}
_PROBE_TIMEOUT = timedelta(seconds=2)
"""Longest the server spends on one probe: a view may sort all its rows before it returns the first."""
_CALL_TIMEOUT = timedelta(seconds=10)
_id_of = itemgetter(0)


OPTIONAL: Mapping[str, Mapping[str, tuple[str, ...]]] = {"contacts": {"custom_fields": ("jsonb", "json")}}
"""Columns that a relation may lack; if they exist, their types are checked too."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One difference from the contract. `column` is empty if the whole relation is missing; then `sentence` says so."""

    relation: str
    column: str
    sentence: str
    cast_to: str | None = None
    """The type that a view may cast the column to, if that helps."""


async def check_relations(connection: asyncpg.Connection) -> None:
    """Raises SchemaMismatch that lists every relation and column that is missing or has a different type."""
    if found := await mismatches(connection):
        raise SchemaMismatch(f"The contacts cannot be read: {'; '.join(each.sentence for each in found)}.")


async def mismatches(connection: asyncpg.Connection) -> list[Mismatch]:
    """Every relation and column that is missing or has a different type."""
    found = await found_relations(connection)
    differences: list[Mismatch] = []
    for relation, columns in CONTRACT.items():
        if relation in found:
            differences += _mismatches(relation, columns, found[relation])
        else:
            differences.append(Mismatch(relation, "", f"{relation} is missing"))
    ids = ID_TYPES.get(found.get("contacts", {}).get("id", ""))
    differences += _other_ids(found, ids)
    if ids is IdType.TEXT:
        differences += await _other_collations(connection)
    return differences


def _mismatches(relation: str, columns: Mapping[str, tuple[str, ...]], found: Mapping[str, str]) -> Iterator[Mismatch]:
    """What is wrong with the columns of a relation, of which `found` has the actual types."""
    optional = {column: types for column, types in OPTIONAL.get(relation, {}).items() if column in found}
    for column, types in {**columns, **optional}.items():
        actual = found.get(column)
        if actual is None:
            yield Mismatch(relation, column, f"{relation}.{column} is missing")
        elif actual not in types:
            accepted = ID_NAMES if types == _CONTACT_ID else types[0]
            sentence = f"{relation}.{column} is {actual} instead of {accepted}; a view may cast it"
            yield Mismatch(relation, column, sentence, "text" if types == _CONTACT_ID else types[0])


def _other_ids(found: Mapping[str, Mapping[str, str]], ids: IdType | None) -> Iterator[Mismatch]:
    """Columns with ids whose type is accepted, but is not the one of contacts.id."""
    for relation, column in _REFERENCES:
        actual = found.get(relation, {}).get(column, "")
        if ids is not None and ID_TYPES.get(actual, ids) is not ids:
            sentence = f"{relation}.{column} is {actual}, but contacts.id is {found['contacts']['id']}; a view may cast it"
            yield Mismatch(relation, column, sentence, ids)


async def _other_collations(connection: asyncpg.Connection) -> list[Mismatch]:
    """Columns with ids that Postgres cannot compare, because their collations differ and none is the default."""
    rows = await connection.fetch(statement("id_collations"))
    return [
        Mismatch(
            row["name"].partition(".")[0],
            row["name"].partition(".")[2],
            f"{row['name']} has the collation {row['collation']}, but {rows[0]['name']} has {rows[0]['collation']};"
            " a view may change it",
            f"text COLLATE {rows[0]['collation']}",
        )
        for row in rows[1:]
        if row["collation"] != rows[0]["collation"]
    ]


async def check_readable(connection: asyncpg.Connection) -> None:
    """Raises SourceUnreadable if a relation is forbidden, filtered by row-level security, or raises for its first row.

    A relation that is slow or locked is not a fault. Neither is a bad value in the first row, because that concerns one
    Space. Sets the statement timeout of the session.
    """
    with source_errors():
        async with asyncio.timeout(_CALL_TIMEOUT.total_seconds()):
            await connection.execute(f"SET statement_timeout = '{_PROBE_TIMEOUT.total_seconds():g}s'")
            for relation in _PROBES:
                for rows in (0, 1):
                    with suppress(SourceData), source_errors(relation.__str__), suppress(asyncpg.QueryCanceledError):
                        await probe(connection, relation, rows)


async def probe(connection: asyncpg.Connection, relation: str, rows: int) -> None:
    """Read so many rows of a relation, in any order. Raises the driver's errors."""
    await connection.fetch(statement(_PROBES[relation]), rows)


async def found_relations(connection: asyncpg.Connection) -> dict[str, dict[str, str]]:
    """Columns and their types of the existing contact relations, by relation."""
    found: dict[str, dict[str, str]] = {}
    for row in await connection.fetch(statement("contact_relations")):
        found.setdefault(row["relation"], {})[row["column"]] = row["type"]
    return found


class IdCheck:
    """Checks that the contacts of one file have different ids, as far as that can be seen without holding all of them.

    Its errors contain the id only if `named`: an id of type text may be an address.
    """

    def __init__(self, *, named: bool) -> None:
        self._named = named
        self._rows = 0
        self._last: object = None

    def check(self, rows: Sequence[asyncpg.Record]) -> None:
        """The next rows of the file, at least one; the first column is the id. Raises SourceData that names the place.

        Sees a null, and an id that is repeated within `rows` or is the last id of the previous call.
        """
        ids = set(map(_id_of, rows))
        if len(ids) < len(rows) or None in ids or rows[0][0] == self._last:
            raise SourceData(detail=self._place(rows))
        self._rows += len(rows)
        self._last = rows[-1][0]

    def _place(self, rows: Sequence[asyncpg.Record]) -> str:
        seen = {self._last: self._rows}
        for number, row in enumerate(rows, start=self._rows + 1):
            contact_id = row[0]
            if contact_id is None:
                return f"contacts.id is null in row {number} of the file"
            if contact_id in seen:
                name = f" {contact_id}" if self._named else ""
                return f"contacts.id{name} is in row {seen[contact_id]} and in row {number} of the file"
            seen[contact_id] = number
        return "contacts.id is not unique"

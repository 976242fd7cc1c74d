"""The contact tables with ids of another type than bigint, as an adopter may have them."""

from hashlib import md5
from uuid import UUID

import asyncpg

_WORDS = "CREATE COLLATION words (provider = icu, locale = 'und')"
"""The order of a dictionary: a, B, é, z. The order of bytes is B, a, z, é."""
_BYTES = 'CREATE COLLATION words FROM "POSIX"'
"""For servers without ICU. It is another collation than "C" for indexes, but not for the result."""
_LETTERS = "aBzé"
_COLUMNS = (
    ("contacts", "id"),
    ("contacts", "merged_into"),
    ("contact_emails", "contact_id"),
    ("comet_tokens", "contact_id"),
)
_EXPRESSIONS = {
    "bigint": "{}",
    "integer": "{}",
    "uuid": "md5({0}::text)::uuid",
    "text": f"substr('{_LETTERS}', ({{0}} % 4)::int + 1, 1) || '/' || {{0}}",
}
_EXPRESSIONS["character varying"] = _EXPRESSIONS["text"]

ID_TYPES = tuple(_EXPRESSIONS)


def as_type(number: int, id_type: str) -> int | str:
    """What consumers see of the id that a contact with this number has after `change_ids`."""
    match id_type:
        case "bigint" | "integer":
            return number
        case "uuid":
            return str(UUID(md5(str(number).encode(), usedforsecurity=False).hexdigest()))
        case _:
            return f"{_LETTERS[number % 4]}/{number}"


def order_of(contact_id: int | str) -> int | bytes:
    """A key that sorts ids as lists and files do: text by its bytes, and uuids too."""
    return contact_id if isinstance(contact_id, int) else contact_id.encode()


async def change_ids(sql: asyncpg.Connection, id_type: str) -> None:
    """Give the ids of all contacts another type. Text has a collation that orders it unlike its bytes."""
    is_text = id_type in ("text", "character varying")
    if is_text:
        try:
            await sql.execute(_WORDS)
        except asyncpg.FeatureNotSupportedError:
            await sql.execute(_BYTES)
    await sql.execute("ALTER TABLE contacts ALTER COLUMN id DROP IDENTITY, DROP CONSTRAINT not_merged_into_itself")
    new_type = f"{id_type} COLLATE words" if is_text else id_type
    for table, column in _COLUMNS:
        value = _EXPRESSIONS[id_type].format(column)
        await sql.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {new_type} USING {value}")
    if is_text:
        await sql.execute(
            "DROP INDEX contacts_of_space;"
            'CREATE INDEX contacts_of_space ON contacts (space_id, created_at, id COLLATE "C") WHERE merged_into IS NULL'
        )
    await sql.execute("ANALYZE contacts, contact_emails, comet_tokens")

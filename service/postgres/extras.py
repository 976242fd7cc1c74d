"""The SQL of extras: which fragments of `extras.sql` select them from the relations of a database."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Union

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from service.model import Extra, Extras
from sql import fragment, statement

_CALL_TIMEOUT = timedelta(seconds=10)

Connection = Union[asyncpg.Connection, "PoolConnectionProxy[asyncpg.Record]"]


async def extra_fragments(connection: Connection, extras: Extras) -> list[str]:
    """The names of the fragments that select these extras from the relations of this database."""
    return [await _fragment(connection, extra) for extra in extras]


async def _fragment(connection: Connection, extra: Extra) -> str:
    name = f"extra_{extra}"
    match extra:
        case Extra.EMAILS:
            unique = await connection.fetchval(statement("emails_are_unique"), timeout=_CALL_TIMEOUT.total_seconds())
            return f"{name}_unique" if unique else name
        case Extra.CUSTOM_FIELDS:
            exist = await connection.fetchval(statement("custom_fields_exist"), timeout=_CALL_TIMEOUT.total_seconds())
            return name if exist else f"{name}_absent"
        case Extra.COMET_TOKENS:
            return name


def read_contacts(fragments: Iterable[str]) -> str:
    """The statement that reads contacts with ids of type bigint and these extras, given as names of SQL fragments."""
    return with_extras(statement("read_contacts"), fragments)


def with_extras(text: str, fragments: Iterable[str]) -> str:
    """A statement that also selects these fragments, in place of its marker `/* extras */`."""
    return text.replace("/* extras */", "".join(f",\n{fragment(name)}" for name in fragments))

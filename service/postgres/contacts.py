"""Reads contacts for the API, through a small read-only pool of its own."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from types import TracebackType
from typing import Self, TypeVar

import asyncpg

from service.errors import DatabaseUnavailable
from service.failures import SourceUnavailable, SourceUnreadable
from service.model import Extras
from service.postgres.addresses import Dsn
from service.postgres.contact_ids import ContactId, IdType, read_contact_ids
from service.postgres.driver_errors import connection_was_lost, source_errors
from service.postgres.extras import Connection, extra_fragments, with_extras
from service.postgres.pool import Database
from service.postgres.session import API_SESSION
from sql import statement

T = TypeVar("T")

_RELATIONS_SECONDS = 5.0
"""How long it counts whether addresses are unique and custom fields exist: asking costs as much as a small page. A relation
that is replaced by a view with duplicates is noticed after this time."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the list's order: next to a contact, or at it if the contact itself is `included`.

    `created_at` is text as the server writes it.
    """

    created_at: str
    contact_id: ContactId
    included: bool = False


@dataclass(frozen=True, slots=True)
class ContactReader:
    """One connection, the type of the ids, and the SQL fragments of the extras in the relations that it reads.

    Columns of a list: id (a number or text), email, name, phone, location, the extras as JSON text, and `created_at` as
    text.
    """

    connection: Connection
    ids: IdType
    fragments: tuple[str, ...]

    async def older(self, space_id: int, since: datetime, place: Place, limit: int) -> list[asyncpg.Record]:
        """Contacts of a Space that come after `place` in the list and were created at or after `since`, newest first."""
        return await self._list(statement("contacts_before"), space_id, since, place, limit)

    async def newer(self, space_id: int, until: datetime, place: Place, limit: int) -> list[asyncpg.Record]:
        """Contacts of a Space that come before `place` in the list and were created before `until`, oldest first."""
        return await self._list(statement("contacts_after"), space_id, until, place, limit)

    async def find(self, contact_id: str, space_id: int) -> asyncpg.Record | None:
        """A contact of a Space or the contact it was merged into; None if there is none. Columns: id, then JSON text."""
        parsed = self.ids.parse(contact_id)
        if parsed is None:
            return None
        text = _fitted(statement("one_contact"), self.ids, self.fragments)
        with source_errors():
            try:
                return await self.connection.fetchrow(text, parsed, space_id)
            except asyncpg.UntranslatableCharacterError:  # the encoding of the database has no such character
                return None

    async def _list(self, text: str, space_id: int, bound: datetime, place: Place, limit: int) -> list[asyncpg.Record]:
        text = _fitted(text, self.ids, self.fragments, "=" if place.included else "")
        with source_errors():
            return await self.connection.fetch(text, space_id, bound, place.created_at, place.contact_id, limit)


@cache
def _fitted(text: str, ids: IdType, fragments: tuple[str, ...], or_at: str = "") -> str:
    return ids.fit(with_extras(text, fragments)).replace("/* or at */", or_at)


class ContactReads:
    """A pool of at most `size` connections on the contacts' database; each read takes at most `timeout`."""

    def __init__(self, dsn: Dsn, size: int, timeout: timedelta) -> None:
        self.timeout = timeout
        self._ids: IdType | None = None
        self._fragments: dict[Extras, tuple[float, tuple[str, ...]]] = {}
        """For each choice of extras the fragments, and the time until which they count."""
        self._database = Database(
            dsn, application_name="contact-exports contacts", size=size, timeout=timeout, session=API_SESSION
        )

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.__aexit__(kind, error, trace)

    @property
    def pool(self) -> Database:
        """The pool itself, to measure its use."""
        return self._database

    async def read(self, extras: Extras, work: Callable[[ContactReader], Awaitable[T]]) -> T:
        """The result of `work`. It is retried once if the connection had died, as after a restart of the database.

        Raises SourceUnavailable, SourceData.
        """
        try:
            async with asyncio.timeout(self.timeout.total_seconds()):
                try:
                    return await self._read(extras, work)
                except (DatabaseUnavailable, SourceUnavailable) as error:
                    if not connection_was_lost(error.__cause__):
                        raise
                    return await self._read(extras, work)
        except DatabaseUnavailable as error:
            raise SourceUnavailable(detail=f"contacts database: {error.detail}") from error
        except TimeoutError as error:
            raise SourceUnavailable(
                detail=f"contacts database: no response in {self.timeout.total_seconds():g} s"
            ) from error

    async def _read(self, extras: Extras, work: Callable[[ContactReader], Awaitable[T]]) -> T:
        async with self._database.connection() as connection:
            with source_errors():
                if self._ids is None:
                    self._ids = (await read_contact_ids(connection)).type
                ids, fragments = self._ids, await self._fragments_of(connection, extras)
            try:
                # Errors of `work` itself are not errors of the source: they must reach the log with their traceback.
                return await work(ContactReader(connection, ids, fragments))
            except SourceUnreadable:
                # A statement for ids of another type is an error. Somebody may have replaced the relations.
                self._ids = None
                self._fragments.clear()
                raise

    async def _fragments_of(self, connection: Connection, extras: Extras) -> tuple[str, ...]:
        until, fragments = self._fragments.get(extras, (-math.inf, ()))
        if time.monotonic() > until:
            fragments = tuple(await extra_fragments(connection, extras))
            self._fragments[extras] = time.monotonic() + _RELATIONS_SECONDS, fragments
        return fragments

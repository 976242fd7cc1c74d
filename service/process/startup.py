"""The steps between listening and working: schema, contacts, store."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service.database_urls import place_of
from service.errors import DatabaseRefused, DatabaseUnavailable, LoginRefused, SchemaMismatch, Starting, StoreOwnedElsewhere
from service.exports.ownership import Ownership
from service.failures import ExportFailure, SourceUnavailable, SourceUnreadable
from service.postgres.addresses import Dsn, current
from service.postgres.contact_source import ContactSource
from service.postgres.migrate import check_schema, migrate
from service.postgres.rights import check_rights
from service.storage import ObjectStore

_FIRST_PAUSE = timedelta(seconds=0.5)
_LONGEST_PAUSE = timedelta(seconds=5)
"""Time between two tries to reach a database; the pause doubles from the first to the longest."""
_MAIN = "DATABASE_URL (or DATABASE_DIRECT_URL)"
MAIN_REFUSED = f"The main database refuses the login; correct {_MAIN}."
CONTACTS_REFUSED = "The contacts database refuses the login; correct CONTACTS_DATABASE_URL."
_CHECK = "Run: contact-exports contacts check. It says how to mend each."

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StartupRules:
    """What the settings say about starting."""

    own_contacts: bool
    """The contacts are in the main database."""
    may_migrate: bool
    own_files: bool = False
    """Nothing else can own the files, so they are taken over from another database."""


class Startup:
    """Waits for the databases. Until then the API returns 503. Raises errors that must be fixed by hand."""

    def __init__(
        self, dsn: Dsn, source: ContactSource, store: ObjectStore, ownership: Ownership, rules: StartupRules
    ) -> None:
        self._dsn = dsn
        self._source = source
        self._store = store
        self._ownership = ownership
        self._rules = rules
        self._finished = False
        self._waits_for: str | None = None

    def require_started(self) -> None:
        """Raises Starting until `finish` was called."""
        if not self._finished:
            raise Starting(detail=self._waits_for)

    def finish(self) -> None:
        """Open the API."""
        self._finished = True

    async def schema(self) -> None:
        """Wait for the database and apply missing migrations. Raises SchemaMismatch, LoginRefused."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._apply_missing_migrations()
            except DatabaseRefused as error:
                raise LoginRefused(MAIN_REFUSED, detail=error.detail) from error
            except DatabaseUnavailable as error:
                self._waits_for = f"It waits for the main database: check {_MAIN}."
                log.warning(
                    "waiting_for_database", detail=error.detail, database=place_of(current(self._dsn)), setting=_MAIN
                )
            else:
                self._waits_for = None
                return
            await asyncio.sleep(pause.total_seconds())
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def contacts(self) -> bool:
        """Check the three relations; False if their database is unreachable. Raises SchemaMismatch, LoginRefused.

        Relations that cannot be read end nothing: exports work as soon as the rights are granted.
        """
        try:
            await self._source.check()
        except SourceUnreadable as error:
            log.error("contacts_not_readable", detail=error.detail, mend=_CHECK)  # noqa: TRY400 - expected; no traceback
        except SchemaMismatch as error:
            raise SchemaMismatch(f"{error.message} {_CHECK}", detail=error.detail) from error
        except LoginRefused as error:
            raise LoginRefused(CONTACTS_REFUSED, detail=error.detail) from error
        except SourceUnavailable as error:
            place = place_of(current(self._source.dsn))
            setting = _MAIN if self._rules.own_contacts else "CONTACTS_DATABASE_URL"
            log.warning("contacts_not_reachable", detail=error.detail, database=place, setting=setting)
            return False
        return True

    async def contacts_later(self) -> None:
        """Check the three relations as soon as their database is reachable. Raises SchemaMismatch, LoginRefused."""
        while not await self.contacts():
            await asyncio.sleep(_LONGEST_PAUSE.total_seconds())

    async def owner(self) -> None:
        """Return as soon as the store says that its files belong to this database. Raises StoreOwnedElsewhere."""
        while True:
            try:
                if self._rules.own_files:
                    await self._ownership.take()
                return await self._ownership.check()
            except (ExportFailure, DatabaseUnavailable) as error:
                log.warning("owner_not_known", detail=error.detail)
            except StoreOwnedElsewhere:
                raise
            except Exception:
                log.exception("owner_check_crashed")
            await asyncio.sleep(_LONGEST_PAUSE.total_seconds())

    async def store(self) -> None:
        """Log whether files can be written. An error here ends nothing, because an unreachable store may come back."""
        try:
            await self._store.probe()
        except ExportFailure as error:
            log.error("store_not_usable", error_code=error.code, detail=error.detail)  # noqa: TRY400 - expected; no traceback
        else:
            log.info("store_usable")

    async def _apply_missing_migrations(self) -> None:
        await check_rights(self._dsn)
        if await check_schema(self._dsn, own_contacts=self._rules.own_contacts):
            return
        if not self._rules.may_migrate:
            raise SchemaMismatch("Migrations are missing and MIGRATE_ON_START is off. Run: contact-exports migrate")
        await migrate(self._dsn, own_contacts=self._rules.own_contacts)
        await check_rights(self._dsn)

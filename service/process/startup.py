"""From a process that listens to one that works: schema, shared secret, contacts, store."""

import asyncio

import structlog

from service.errors import DatabaseUnavailable, ExportFailure, SchemaMismatch, SourceUnavailable, Starting
from service.postgres.migrate import check_schema, migrate
from service.postgres.snapshot import ContactSource
from service.storage import ObjectStore

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0

log = structlog.get_logger()


class Startup:
    """Waits for what the service stands on. Until then the API answers 503; what only a person can mend raises."""

    def __init__(
        self, dsn: str, source: ContactSource, store: ObjectStore, *, own_contacts: bool, may_migrate: bool
    ) -> None:
        self._dsn = dsn
        self._source = source
        self._store = store
        self._own_contacts = own_contacts
        self._may_migrate = may_migrate
        self._done = False

    def check(self) -> None:
        """Raises Starting until `finish` was called."""
        if not self._done:
            raise Starting

    def finish(self) -> None:
        """Let the API work."""
        self._done = True

    async def schema(self) -> None:
        """Wait for the database and bring it up to date. Raises SchemaMismatch."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._bring_up_to_date()
            except DatabaseUnavailable as error:
                log.warning("waiting_for_database", detail=error.detail)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def contacts(self) -> bool:
        """Check the three relations; False when their database cannot be reached now. Raises SchemaMismatch."""
        try:
            await self._source.check()
        except SourceUnavailable as error:
            log.warning("contacts_not_reachable", detail=error.detail)
            return False
        return True

    async def contacts_later(self) -> None:
        """Keep asking until the relations could be checked. Raises SchemaMismatch."""
        while not await self.contacts():
            await asyncio.sleep(_LONGEST_PAUSE)

    async def store(self) -> None:
        """Say clearly whether files can be written; a store that is down now may be up later, so this ends nothing."""
        try:
            await self._store.probe()
        except ExportFailure as error:
            log.error("store_not_usable", error_code=error.code, detail=error.detail)
        else:
            log.info("store_usable")

    async def _bring_up_to_date(self) -> None:
        if await check_schema(self._dsn, own_contacts=self._own_contacts):
            return
        if not self._may_migrate:
            raise SchemaMismatch("Migrations are missing and MIGRATE_ON_START is off; run: contact-exports migrate")
        await migrate(self._dsn, own_contacts=self._own_contacts)

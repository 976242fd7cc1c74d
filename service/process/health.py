"""Liveness and readiness. Probe results are cached, so frequent health checks stay cheap."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from service.errors import DatabaseUnavailable, ServiceError
from service.exports.ownership import Ownership
from service.failures import StorageUnavailable
from service.postgres.contact_source import ContactSource
from service.postgres.pool import Database
from service.process.startup import Startup
from service.storage import ObjectStore
from service.web.health import Readiness

_STORE_LIFETIME = timedelta(seconds=15)
_CONTACTS_LIFETIME = timedelta(minutes=1)
"""How long a good result is cached. Probing slow views takes the server up to 6 s."""
_BAD_LIFETIME = timedelta(seconds=1)
"""How long a fault is cached: briefly, to notice a recovery soon. So is every result for the database: many
readiness requests at once must not take the connections of other requests."""
_PATIENCE = timedelta(seconds=2)
"""Longest a readiness request waits for a shared probe. The probe continues in the background."""

_NOT_YET = "The contacts are not checked before the schema is."
_CHECK = "`contact-exports contacts check` says how to mend it."

log = structlog.get_logger()


class CachedProbe:
    """A probe that all readiness requests share. `probe` returns None, or the fault; a good result lasts `good_for`."""

    def __init__(self, probe: Callable[[], Awaitable[str | None]], *, good_for: timedelta) -> None:
        self._probe = probe
        self._good_for = good_for
        self._result: str | None = None
        self._expires = 0.0
        self._probing: asyncio.Task[None] | None = None

    async def fault(self, *, late: str | None = None) -> str | None:
        """The fault, or None. If the probe does not end in time, `late` or else the fault that was found before."""
        if time.monotonic() > self._expires:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._renew())
            await asyncio.wait({self._probing}, timeout=_PATIENCE.total_seconds())
            if not self._probing.done() or self._probing.cancelled():
                return late or self._result
            self._probing.result()
        return self._result

    def stop(self) -> None:
        """Cancel a probe that is running."""
        if self._probing is not None:
            self._probing.cancel()

    async def _renew(self) -> None:
        self._result = await self._probe()
        self._expires = time.monotonic() + (_BAD_LIFETIME if self._result else self._good_for).total_seconds()


class Health:
    """Checks of the process, the databases and the store. `stuck` names a step that only a restart can end."""

    def __init__(
        self,
        database: Database,
        contacts: ContactSource,
        store: ObjectStore,
        ownership: Ownership,
        startup: Startup,
        stuck: Callable[[], str | None],
    ) -> None:
        self._database = database
        self._store = store
        self._ownership = ownership
        self._startup = startup
        self._stuck = stuck
        self._stopping = False
        self._one_ping = asyncio.Lock()
        self._pinged: tuple[float, str | None] | None = None
        self._contacts = contacts
        self._contacts_probe = CachedProbe(self._ask_contacts, good_for=_CONTACTS_LIFETIME)
        self._store_probe = CachedProbe(self._ask_store, good_for=_STORE_LIFETIME)

    def stop(self) -> None:
        """Report not ready, so that load balancers stop sending traffic."""
        self._stopping = True
        self._contacts_probe.stop()
        self._store_probe.stop()

    def alive(self) -> bool:
        """False if a restart would help. The state of databases and stores does not count."""
        if (stuck := self._stuck()) is not None:
            log.error("stuck", at=stuck)
        return stuck is None

    async def ready(self) -> Readiness:
        """All checks; each is None if it passed. Contacts that are only unreachable pass: exports wait for them."""
        schema = self._schema()
        return Readiness(
            {
                "process": "The service is stopping." if self._stopping else None,
                "schema": schema,
                "database": await self._ask_database(),
                "contacts": await self._contacts_probe.fault() if schema is None else _NOT_YET,
                "store": await self._store_probe.fault(late=StorageUnavailable().message),
            }
        )

    def _schema(self) -> str | None:
        try:
            self._startup.require_started()
        except ServiceError as error:
            return f"{error.message} {error.detail or ''}".rstrip()
        return None

    async def _ask_contacts(self) -> str | None:
        fault = await self._contacts.fault()
        return fault and f"{fault.rstrip('.')}. {_CHECK}"

    async def _ask_database(self) -> str | None:
        async with self._one_ping:
            if self._pinged is None or time.monotonic() > self._pinged[0]:
                self._pinged = time.monotonic() + _BAD_LIFETIME.total_seconds(), await _fault(self._database.ping())
            return self._pinged[1]

    async def _ask_store(self) -> str | None:
        return await _fault(self._probe_store())

    async def _probe_store(self) -> None:
        if self._schema() is None:
            try:
                await self._ownership.check()
            except DatabaseUnavailable:
                return  # the check of the database says so
        await self._store.probe()


async def _fault(probe: Awaitable[None]) -> str | None:
    """The error of a probe. If a person must fix it, in words for operators."""
    try:
        await probe
    except DatabaseUnavailable as error:
        return error.message
    except StorageUnavailable as error:
        # The rest of the detail may name a host, and anybody can read this.
        advice = (error.detail or "").partition("; ")[2]
        return f"The file storage is not available; {advice}." if advice else error.message
    except ServiceError as error:
        return error.detail or error.message
    return None

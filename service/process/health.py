"""Liveness and readiness. Probe results are cached, so frequent health checks stay cheap."""

import asyncio
import time
from collections.abc import Callable

import structlog

from service.errors import ServiceError, StorageUnavailable
from service.postgres.pool import Database
from service.process.startup import Startup
from service.storage import ObjectStore
from service.web.health import Readiness

_GOOD_SECONDS = 15.0
_BAD_SECONDS = 1.0
"""How long the result of a store probe is cached, in seconds. A failure is cached briefly, to notice a recovery soon. So is
every result for the database: many readiness requests at once must not take the connections of other requests."""
_PATIENCE_SECONDS = 2.0
"""Longest a readiness request waits for the shared store probe, in seconds. The probe continues in the background."""

log = structlog.get_logger()


class Health:
    """Checks of the process, the database and the store. `stuck` names a step that only a restart can end."""

    def __init__(self, database: Database, store: ObjectStore, startup: Startup, stuck: Callable[[], str | None]) -> None:
        self._database = database
        self._store = store
        self._startup = startup
        self._stuck = stuck
        self._stopping = False
        self._one_ping = asyncio.Lock()
        self._pinged: tuple[float, str | None] | None = None
        self._probed: tuple[float, str | None] | None = None
        self._probing: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Report not ready, so that load balancers stop sending traffic."""
        self._stopping = True
        if self._probing is not None:
            self._probing.cancel()

    def alive(self) -> bool:
        """False if a restart would help. The state of databases and stores does not count."""
        if (stuck := self._stuck()) is not None:
            log.error("stuck", at=stuck)
        return stuck is None

    async def ready(self) -> Readiness:
        """All checks; each is None if it passed."""
        return Readiness(
            {
                "process": "The service is stopping." if self._stopping else None,
                "schema": self._schema(),
                "database": await self._ask_database(),
                "store": await self._ask_store(),
            }
        )

    def _schema(self) -> str | None:
        try:
            self._startup.require_started()
        except ServiceError as error:
            return error.message
        return None

    async def _ask_database(self) -> str | None:
        async with self._one_ping:
            if self._pinged is None or time.monotonic() > self._pinged[0]:
                self._pinged = time.monotonic() + _BAD_SECONDS, await self._ping()
            return self._pinged[1]

    async def _ping(self) -> str | None:
        try:
            await self._database.ping()
        except ServiceError as error:
            return error.message
        return None

    async def _ask_store(self) -> str | None:
        if self._probed is None or time.monotonic() > self._probed[0]:
            if self._probing is None or self._probing.done():
                self._probing = asyncio.create_task(self._probe())
            await asyncio.wait({self._probing}, timeout=_PATIENCE_SECONDS)
            if not self._probing.done() or self._probing.cancelled():
                return StorageUnavailable().message
            self._probing.result()
        return self._probed[1] if self._probed else None

    async def _probe(self) -> None:
        fault = None
        try:
            await self._store.probe()
        except ServiceError as error:
            fault = error.message
        self._probed = (time.monotonic() + (_BAD_SECONDS if fault else _GOOD_SECONDS), fault)

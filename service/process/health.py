"""Whether this process can work: asked by orchestrators, answered without a cost that grows with their impatience."""

import asyncio
import time
from collections.abc import Callable

import structlog

from service.errors import ServiceError, StorageUnavailable
from service.postgres.pool import Database
from service.process.startup import Startup
from service.storage import ObjectStore
from service.web.handlers import Readiness

_GOOD_SECONDS = 15.0
_BAD_SECONDS = 1.0
"""How long an answer of the store holds: a probe begins and aborts an upload. A store that is back is noticed sooner."""
_PATIENCE_SECONDS = 2.0
"""How long those who ask wait for a probe; it goes on after that, and all of them wait for the same one."""

log = structlog.get_logger()


class Health:
    """Checks of the database, the store, and of the process itself. `stuck` names what only a restart can mend."""

    def __init__(self, database: Database, store: ObjectStore, startup: Startup, stuck: Callable[[], str | None]) -> None:
        self._database = database
        self._store = store
        self._startup = startup
        self._stuck = stuck
        self._stopping = False
        self._probed: tuple[float, str | None] | None = None
        self._probing: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """From now on not ready: load balancers shall look elsewhere."""
        self._stopping = True
        if self._probing is not None:
            self._probing.cancel()

    def alive(self) -> bool:
        """False where a restart would help; what the service stands on has no say in it."""
        if (stuck := self._stuck()) is not None:
            log.error("stuck", at=stuck)
        return stuck is None

    async def ready(self) -> Readiness:
        """All checks, each None where it is well."""
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
            self._startup.check()
        except ServiceError as error:
            return error.message
        return None

    async def _ask_database(self) -> str | None:
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

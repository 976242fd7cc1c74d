"""Which database owns the files of a store: a marker in the store says so.

A dump that is restored elsewhere contains the exports of its original. A service on the copy must not touch their files: it
would delete those of attempts that are still running. The first service takes a store without a marker. Replicas share one
database and write equal markers, so they agree. If two databases take a store at the same time, the last marker counts. The
other service finds it before it deletes anything, because a cleanup needs a marker that was there before.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from service.errors import StoreOwnedElsewhere
from service.exports.periodic import boot_clock
from service.failures import ExportFailure, StorageRefused
from service.postgres.database_identity import DatabaseIdentity
from service.storage import Marker, ObjectStore

_REWRITE_AFTER = timedelta(hours=12)
"""Age at which the marker is written again, so that a lifecycle rule that deletes old objects does not delete it."""
_ABOUT = (
    "The files below this prefix belong to the contact-exports database with this identity."
    " Another database takes them over with: contact-exports storage adopt"
)

log = structlog.get_logger()


class Ownership:
    """Whether this database owns the files of the store. `fresh` is how long a result may be used for a cleanup.

    `on_lost` is called when another database has taken the store, `on_regained` when this one has it back.
    """

    def __init__(self, store: ObjectStore, identity: Callable[[], Awaitable[DatabaseIdentity]], *, fresh: timedelta) -> None:
        self._store = store
        self._read_identity = identity
        self._fresh = fresh.total_seconds()
        self._marker: bytes | None = None
        self._confirmed_at: float | None = None
        self._one = asyncio.Lock()
        self.lost = False
        self.on_lost: Callable[[], None] = lambda: None
        self.on_regained: Callable[[], None] = lambda: None

    async def check(self) -> None:
        """Read the marker, or write it if there is none.

        Raises StoreOwnedElsewhere if another database owns the store, ExportFailure, DatabaseUnavailable.
        """
        async with self._one:
            ours = await self._ours()
            found = await self._read()
            if found is None:
                # Another database may be writing its marker now, so no cleanup relies on the one just written.
                self._confirmed_at = None
                await self._write(ours)
                return
            if found.content != ours:
                self._lose()
                raise StoreOwnedElsewhere
            self._confirm()
            if datetime.now(UTC) - found.modified_at > _REWRITE_AFTER:
                await self._renew(ours)

    async def take(self) -> bool:
        """Make this database the owner; False if it already was. Raises ExportFailure, DatabaseUnavailable."""
        async with self._one:
            ours = await self._ours()
            found = await self._store.read_marker()
            if found is not None and found.content == ours:
                return False
            await self._write(ours)
            return True

    async def watch(self) -> None:
        """`check` as a periodic task: a loss is only recorded. Raises ExportFailure, DatabaseUnavailable."""
        with suppress(StoreOwnedElsewhere):
            await self.check()

    def guarded(self, cleanup: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        """A cleanup that first makes sure that the files belong to this database, and otherwise does nothing."""

        async def guarded() -> None:
            if self._confirmed_at is None or boot_clock() - self._confirmed_at > self._fresh:
                await self.watch()
            if self._confirmed_at is not None:
                await cleanup()

        return guarded

    async def _ours(self) -> bytes:
        if self._marker is None:
            identity = await self._read_identity()
            fields = {"about": _ABOUT, "database": identity.id, "server": identity.server, "oid": identity.oid}
            self._marker = json.dumps(fields, indent=2).encode() + b"\n"
        return self._marker

    async def _read(self) -> Marker | None:
        """The marker. A response that is no marker, such as the page of a proxy, says nothing about the owner."""
        found = await self._store.read_marker()
        if found is not None and not _is_marker(found.content):
            raise StorageRefused(detail="the marker of the owner is damaged; `contact-exports storage adopt` replaces it")
        return found

    async def _write(self, ours: bytes) -> None:
        await self._store.write_marker(ours)
        written = await self._read()
        if written is not None and written.content != ours:
            self._lose()
            raise StoreOwnedElsewhere

    async def _renew(self, ours: bytes) -> None:
        try:
            await self._store.write_marker(ours)
        except ExportFailure as error:  # on a full disk, only cleanups help
            log.warning("marker_not_renewed", error_code=error.code, detail=error.detail)

    def _confirm(self) -> None:
        self._confirmed_at = boot_clock()
        if self.lost:
            self.lost = False
            self.on_regained()

    def _lose(self) -> None:
        self._confirmed_at = None
        if not self.lost:
            self.lost = True
            self.on_lost()


def _is_marker(content: bytes) -> bool:
    try:
        fields = json.loads(content)
    except ValueError:
        return False
    return isinstance(fields, dict) and {"database", "server", "oid"} <= fields.keys()

"""Deletes a Space: its exports, their files, its keys and all rows. Every step can be repeated, so a crash loses nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from service.exports import leftovers
from service.failpoints import failpoint
from service.model import ExportStatus
from service.postgres.claims import Claims
from service.postgres.export_files import ExportFiles
from service.postgres.space_deletion import SpaceDeletionTables
from service.storage import ObjectStore

_PAUSE_SECONDS = 1.0
"""Pause between two looks at attempts that ended just now."""


class Step(Enum):
    """What a step of the deletion did; its number counts what the value names."""

    KEYS_REVOKED = "keys revoked"
    QUEUED_CANCELLED = "queued exports cancelled"
    RUNNING_CANCELLED = "running exports cancelled"
    FILES_DELETED = "files deleted"
    ATTEMPTS_WAITED_FOR = "attempts that ended just now: waiting for their last calls to the store"
    LEFTOVERS_DELETED = "attempts cleaned up"
    EXPORTS_DELETED = "exports deleted"
    SPACE_DELETED = "Space deleted"


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was done, and how many of its things there were."""

    step: Step
    count: int


class SpaceDeletion:
    """Deletes Spaces. `grace` is how long after its end an attempt's own storage calls may still be in flight.

    A process that runs an export of the Space notices at its next renewal, and can neither publish a file nor record one.
    """

    def __init__(
        self, tables: SpaceDeletionTables, files: ExportFiles, claims: Claims, store: ObjectStore, *, grace: timedelta
    ) -> None:
        self._tables = tables
        self._files = files
        self._claims = claims
        self._store = store
        self._grace = grace

    async def run(self, space_id: int) -> AsyncIterator[Done]:
        """Delete the Space; yields each step after it was done. Raises ExportFailure, DatabaseUnavailable: call it again."""
        yield Done(Step.KEYS_REVOKED, await self._tables.close(space_id))
        await failpoint("space_closed")
        while True:
            async for done in self._empty(space_id):
                yield done
            if await self._tables.delete(space_id):
                break
            # A request that was accepted before the keys were revoked has created an export meanwhile.
        yield Done(Step.SPACE_DELETED, 1)

    async def _empty(self, space_id: int) -> AsyncIterator[Done]:
        while ended := await self._tables.end_exports(space_id):
            for step, status in (
                (Step.QUEUED_CANCELLED, ExportStatus.QUEUED),
                (Step.RUNNING_CANCELLED, ExportStatus.PROCESSING),
            ):
                yield Done(step, ended.count(status))
        await failpoint("space_exports_ended")
        while files := await self._tables.files(space_id):
            for file in files:
                await self._store.delete(file.object_name)
                await failpoint("space_file_deleted")
                await self._files.record_deleted(file.export_id)
            yield Done(Step.FILES_DELETED, len(files))
        async for done in self._clean(space_id):
            yield done
        while count := await self._tables.forget_exports(space_id):
            yield Done(Step.EXPORTS_DELETED, count)
        await failpoint("space_exports_deleted")

    async def _clean(self, space_id: int) -> AsyncIterator[Done]:
        """Remove what attempts left in the store, once their own last calls cannot arrive any more."""
        told = False
        while True:
            found = await self._tables.leftovers(space_id, grace=self._grace)
            for leftover in found.ready:
                await leftovers.remove(self._store, leftover)
                await self._claims.record_cleaned(leftover)
            if found.ready:
                yield Done(Step.LEFTOVERS_DELETED, len(found.ready))
            elif not found.waiting:
                return
            else:
                if not told:
                    yield Done(Step.ATTEMPTS_WAITED_FOR, found.waiting)
                told = True
                await asyncio.sleep(_PAUSE_SECONDS)

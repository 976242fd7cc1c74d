"""The use cases of operators: cancel an export, delete its file, kick it, retry it.

Each names the state that the operator saw. If the export has left that state, nothing is changed: an export that completed
while someone confirmed its cancellation keeps its file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from service import events
from service.model import ExportStatus
from service.postgres.acts import ExportActs


class Act(StrEnum):
    """What an operator may do to an export."""

    CANCEL = "cancel"
    DELETE_FILE = "delete-file"
    KICK = "kick"
    RETRY = "retry"

    @classmethod
    def possible(cls, status: ExportStatus) -> "tuple[Act, ...]":
        """The acts that an export in this state allows."""
        match status:
            case ExportStatus.QUEUED | ExportStatus.PROCESSING:
                return cls.CANCEL, cls.KICK
            case ExportStatus.COMPLETED:
                return cls.RETRY, cls.DELETE_FILE
            case ExportStatus.FAILED | ExportStatus.CANCELLED | ExportStatus.EXPIRED:
                return (cls.RETRY,)


@dataclass(frozen=True, slots=True)
class OperatorHooks:
    """`on_queued` wakes the runner of this process; `on_cancelled` stops the attempt with this claim if it runs here."""

    on_queued: Callable[[], None]
    on_cancelled: Callable[[UUID], None]


class OperatorActs:
    """Every method raises DatabaseUnavailable, and returns None if the export is no longer in the state that was seen."""

    def __init__(self, acts: ExportActs, hooks: OperatorHooks) -> None:
        self._acts = acts
        self._hooks = hooks

    async def do(self, act: Act, export_id: int, seen: ExportStatus) -> int | None:
        """Do it; returns the id of the export to look at, which for RETRY is the new one."""
        if act not in Act.possible(seen):
            return None
        match act:
            case Act.CANCEL:
                return await self._cancel(export_id, (ExportStatus.QUEUED, ExportStatus.PROCESSING))
            case Act.DELETE_FILE:
                return await self._cancel(export_id, (ExportStatus.COMPLETED,))
            case Act.KICK:
                return await self._kick(export_id, seen)
            case Act.RETRY:
                return await self._retry(export_id)

    async def _cancel(self, export_id: int, seen: tuple[ExportStatus, ...]) -> int | None:
        found = await self._acts.cancel(export_id, seen)
        if found is None:
            return None
        events.emit(events.ExportCancelled(export_id, found.space_id, found.was, found.status))
        if found.claim_id is not None:
            self._hooks.on_cancelled(found.claim_id)
        return export_id

    async def _kick(self, export_id: int, seen: ExportStatus) -> int | None:
        found = await self._acts.kick(export_id, seen)
        if found is None:
            return None
        events.emit(events.ExportKicked(export_id, found[0]))
        self._hooks.on_queued()
        return export_id

    async def _retry(self, export_id: int) -> int | None:
        found = await self._acts.retry(export_id)
        if found is None:
            return None
        events.emit(events.ExportQueued(*found))
        self._hooks.on_queued()
        return found[0]

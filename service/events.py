"""What happens to exports: one dataclass per transition, one `emit`, and listeners such as the log.

The code that made a transition emits its event once, after the commit that made it true.
"""

import dataclasses
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal
from uuid import UUID

import structlog

from service.model import Claim, ExportStatus
from service.trace_context import TraceContext

Level = Literal["info", "warning"]

log = structlog.get_logger()


@dataclass(frozen=True)
class Event:
    """A transition. `level` is its severity in the log."""

    level: ClassVar[Level] = "info"

    def fields(self) -> dict[str, object]:
        """The fields of its log line."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


@dataclass(frozen=True)
class ExportQueued(Event):
    """A create request was committed."""

    export_id: int
    space_id: int


@dataclass(frozen=True)
class ExportCancelled(Event):
    """A cancel request ended a queued or running export, or expired a completed one."""

    export_id: int
    space_id: int
    was: ExportStatus
    status: ExportStatus


@dataclass(frozen=True)
class ExportKicked(Event):
    """An operator requeued the export. `claim_id` is the attempt that it was taken from; None if it waited for a retry."""

    export_id: int
    claim_id: UUID | None


@dataclass(frozen=True)
class ExportRescued(Event):
    """The lease of an attempt had expired; the export is queued again."""

    level: ClassVar[Level] = "warning"

    export_id: int
    claim_id: UUID
    worker: str


@dataclass(frozen=True)
class ExportFailed(Event):
    """An attempt failed or was lost, and so did the export: the error is permanent, or no attempt is left."""

    level: ClassVar[Level] = "warning"

    export_id: int
    claim_id: UUID
    error_code: str
    detail: str | None


@dataclass(frozen=True)
class ExportExpired(Event):
    """The lifetime of the file is over; no new links are issued."""

    export_id: int


@dataclass(frozen=True)
class FileDeleted(Event):
    """The file of an expired export was deleted from the store."""

    export_id: int


@dataclass(frozen=True)
class ExportsForgotten(Event):
    """Rows of exports that ended long ago were deleted."""

    count: int


@dataclass(frozen=True)
class AttemptCleaned(Event):
    """The store contains nothing more of an attempt that ended without a file."""

    export_id: int
    claim_id: UUID


@dataclass(frozen=True)
class AbandonedUploadAborted(Event):
    """An old upload that no running attempt wrote was aborted."""

    object_name: str


@dataclass(frozen=True)
class OrphanDeleted(Event):
    """An old object that no row named was deleted."""

    object_name: str


@dataclass(frozen=True)
class AttemptEvent(Event):
    """A transition of one attempt of this process."""

    claim: Claim

    def fields(self) -> dict[str, object]:
        """The fields of its log line: ids in place of the claim."""
        rest = {name: value for name, value in super().fields().items() if name != "claim"}
        return {**claim_fields(self.claim), **rest}


@dataclass(frozen=True)
class ExportClaimed(AttemptEvent):
    """The export was claimed and its attempt starts."""


@dataclass(frozen=True)
class ExportCompleted(AttemptEvent):
    """The file is published. `bytes` is its compressed size, `seconds` the duration of the attempt."""

    rows: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class AttemptFailed(AttemptEvent):
    """The attempt ended in an error; the export is queued again."""

    level: ClassVar[Level] = "warning"

    error_code: str
    detail: str | None


@dataclass(frozen=True)
class ExportHandedBack(AttemptEvent):
    """A shutdown or a lack of descriptors ended the attempt, which does not count; the export is queued again."""


@dataclass(frozen=True)
class AttemptCancelled(AttemptEvent):
    """A cancel request to this process stopped the attempt."""


@dataclass(frozen=True)
class ClaimLost(AttemptEvent):
    """The claim is no longer this process's. The attempt stopped, or could not record `unrecorded`, its outcome."""

    level: ClassVar[Level] = "warning"

    unrecorded: str | None = None


def claim_fields(claim: Claim) -> dict[str, object]:
    """The ids of an attempt for a log line."""
    return {
        "export_id": claim.export_id,
        "space_id": claim.space_id,
        "attempt": claim.attempt,
        "claim_id": str(claim.claim_id),
        **({"trace_id": claim.trace.trace_id} if claim.trace else {}),
    }


def in_logs(trace: TraceContext | None) -> AbstractContextManager[object]:
    """Add the trace id to every log line inside the block."""
    return structlog.contextvars.bound_contextvars(trace_id=trace.trace_id) if trace else nullcontext()


Listener = Callable[[Event], None]


def emit(event: Event) -> None:
    """Call every listener. An error of a listener is logged and fails nothing else."""
    for listener in _listeners:
        try:
            listener(event)
        except Exception:
            log.exception("listener_failed", of_event=log_name(event))


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` with every event from now on, until the returned function is called."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def log_name(event: Event) -> str:
    """The name of an event's log line: its class name in snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()


def _write_log_line(event: Event) -> None:
    fields = {name: str(value) if isinstance(value, UUID) else value for name, value in event.fields().items()}
    (log.warning if event.level == "warning" else log.info)(log_name(event), **fields)


_listeners: list[Listener] = [_write_log_line]

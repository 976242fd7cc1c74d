"""The vocabulary: frozen values, states and ids, and the rules that need no I/O."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Self
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.errors import UnknownTimezone
from service.trace_context import TraceContext

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
"""Means "no end": the driver stores it as `infinity`."""
Part = Sequence[bytes | memoryview]
"""The bytes of one part of a file, in pieces: joining 8 MiB holds the GIL for 4 ms."""


class ExportStatus(StrEnum):
    """The states of an export; sql/migrations/main/0001_service.sql begins with a drawing of their transitions."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def pending(self) -> bool:
        """True while a worker can still change the state."""
        return self in (ExportStatus.QUEUED, ExportStatus.PROCESSING)


class Scope(StrEnum):
    """A permission of an API key."""

    EXPORTS_WRITE = "exports:write"
    EXPORTS_READ = "exports:read"
    CONTACTS_READ = "contacts:read"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated identity of a request: its Space, and the scopes of its key."""

    space_id: int
    timezone: str
    subscription_active: bool
    scopes: frozenset[Scope]


_NO_PLACES = frozenset({"Factory", "localtime", "posixrules"})
"""Files among the timezones that mean "not configured", or the timezone of the machine."""
_OTHER_COUNTS = ("posix/", "right/")
"""Copies of the timezones on some machines; the second counts leap seconds."""


def timezone(name: str) -> ZoneInfo:
    """The IANA timezone with this name. Raises UnknownTimezone, also for names that mean a setting of one machine."""
    if name in _NO_PLACES or name.startswith(_OTHER_COUNTS):
        raise UnknownTimezone(name)
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UnknownTimezone(name) from None


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open interval `[start, end)` of UTC instants."""

    start: datetime
    end: datetime

    @classmethod
    def from_local(cls, start: datetime, end: datetime, zone: ZoneInfo) -> Self:
        """The window of two naive local times, both inclusive to the whole second (contract: "the window").

        In a DST overlap the start means the earlier instant and the end the later one. In a gap both mean the first valid
        instant after it. Raises OverflowError if an instant lies outside the years 1 to 9999 of UTC.
        """
        first, last = instant(start, zone, later=False), instant(end, zone, later=True)
        try:
            return cls(first, last + timedelta(seconds=1))
        except OverflowError:
            return cls(first, END_OF_TIME)


@lru_cache(maxsize=1024)
def instant(local: datetime, zone: ZoneInfo, *, later: bool) -> datetime:
    """The UTC instant of a naive local time; `later` chooses in a DST overlap. Raises OverflowError.

    Remembered, because every page of a list repeats the times of the first one.
    """
    chosen = local.replace(tzinfo=zone, fold=int(later)).astimezone(UTC)
    if chosen.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return chosen
    # A time in a gap does not survive the round trip. With the offset after the gap it is an instant before the
    # transition; with the offset before the gap it is an instant after it.
    before = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    after = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    offset_before = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset_before:
            before = middle
        else:
            after = middle
    return after


def exists(local: datetime, zone: ZoneInfo) -> bool:
    """Whether a naive local time is an instant within the years 1 to 9999 of UTC."""
    if MINYEAR < local.year < MAXYEAR:
        return True
    try:
        instant(local, zone, later=False), instant(local, zone, later=True)
    except (OverflowError, ValueError):
        return False
    return True


class Extra(StrEnum):
    """A key that a line has only on request, in the order of the line; `option` is the request's parameter for it.

    A further extra needs a line here, a fragment `extra_KEY` in `sql/queries/extras.sql`, and the name in the constraint
    `extras_are_known`.
    """

    option: str

    def __new__(cls, key: str, option: str) -> Self:
        """Make the member whose value is `key`."""
        member = str.__new__(cls, key)
        member._value_ = key
        member.option = option
        return member

    COMET_TOKENS = "comet_tokens", "include_comet_tokens"
    EMAILS = "emails", "include_all_emails"
    CUSTOM_FIELDS = "custom_fields", "include_custom_fields"

    @classmethod
    def among(cls, keys: Collection[str]) -> "Extras":
        """The extras with these keys, in the order of the line."""
        return tuple(extra for extra in cls if extra in keys)


Extras = tuple[Extra, ...]
"""The extras of an export, in the order of `Extra`."""


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The parameters of a new export: naive local times of the Space, `end_date` after `start_date`, and the extras."""

    start_date: datetime
    end_date: datetime
    extras: Extras = ()


@dataclass(frozen=True, slots=True)
class NewExport:
    """A checked request, ready to be queued; `window` is the request's dates resolved in `timezone`."""

    space_id: int
    request: ExportRequest
    timezone: str
    window: Window
    max_attempts: int
    request_id: str
    idempotency_key: str | None = None
    trace: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A complete file. `size` (bytes) and `sha256` (hex) are of the compressed bytes."""

    row_count: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ExportJob:
    """A stored export as its Space sees it. Counts of rows are contacts; all times are UTC."""

    export_id: int
    status: ExportStatus
    created_at: datetime
    window: Window
    timezone: str
    rows_read: int
    rows_estimated: int | None
    finished_at: datetime | None
    snapshot_at: datetime | None
    complete_until: datetime | None
    object_name: str | None
    file: StoredFile | None
    file_expires_at: datetime | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a list ordered by id, newest first: after `beyond`, or before it if `newer`."""

    beyond: int
    newer: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """Proof of ownership of one attempt: every later write names `claim_id`, which is never reused."""

    claim_id: UUID
    export_id: int
    space_id: int
    attempt: int
    alone: bool
    """True for an export that lost two leases: it runs only in a process that runs nothing else."""
    object_name: str
    window: Window
    extras: Extras
    trace: TraceContext | None = None
    """That of the request that created the export."""


def filename(export_id: int) -> str:
    """The name a browser saves the file of an export under (contract: "The file")."""
    return f"contacts-{export_id}.ndjson.gz"


def object_metadata(claim: Claim) -> dict[str, str]:
    """What the store keeps with the object of an attempt."""
    return {
        "export-id": str(claim.export_id),
        "claim-id": str(claim.claim_id),
        "window-from": claim.window.start.isoformat(),
        "window-to": claim.window.end.isoformat(),
    }

"""A model of both tables in plain Python, small enough to review."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from service.model import Claim

POISON = 2
"""From this number of lost leases on an export runs alone."""
OVERDUE = timedelta(minutes=10)


@dataclass
class Attempt:
    """One claim; kept after its rows are deleted."""

    claim: Claim
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None
    upload_id: str | None = None
    cleaned: bool = False
    forgotten: bool = False


@dataclass
class Export:
    """One export. Values that do not apply to its status are None."""

    export_id: int
    space_id: int
    max_attempts: int
    run_after: datetime
    status: str = "queued"
    attempts: int = 0
    lost_leases: int = 0
    handed_back: int = 0
    claim_id: UUID | None = None
    lease_until: datetime | None = None
    slot: int | None = None
    object_name: str | None = None
    finished_at: datetime | None = None
    file_expires_at: datetime | None = None
    file_delete_after: datetime | None = None
    file_deleted: bool = False

    @property
    def poison(self) -> bool:
        return self.lost_leases >= POISON


@dataclass
class Model:
    """`now` is the transaction time of the database and stays constant: time passes by making all rows older."""

    now: datetime
    caps: dict[int, int | None] = field(default_factory=dict)
    exports: dict[int, Export] = field(default_factory=dict)
    attempts: dict[UUID, Attempt] = field(default_factory=dict)

    def running(self, space_id: int) -> list[Export]:
        return [each for each in self.exports.values() if each.space_id == space_id and each.status == "processing"]

    def cap(self, space_id: int, space_slots: int) -> int:
        cap = self.caps[space_id]
        return space_slots if cap is None else cap

    def next(self, space_slots: int, *, alone: bool) -> Export | None:
        """The export that a claim takes: the first by the rule among the heads of all Spaces with a free slot."""
        heads: dict[tuple[int, bool], Export] = {}
        for export in sorted(self.exports.values(), key=lambda each: each.export_id):
            room = len(self.running(export.space_id)) < self.cap(export.space_id, space_slots)
            if export.status == "queued" and export.run_after <= self.now and room:
                heads.setdefault((export.space_id, export.poison), export)
        overdue = {head.export_id for head in heads.values() if head.poison and head.run_after < self.now - OVERDUE}
        if not alone and overdue:
            return None
        return min(
            (head for head in heads.values() if alone or not head.poison),
            key=lambda head: (head.export_id not in overdue, len(self.running(head.space_id)), head.export_id),
            default=None,
        )

    def free_slot(self, space_id: int) -> int:
        taken = {each.slot for each in self.running(space_id)}
        return next(slot for slot in range(1, len(taken) + 2) if slot not in taken)

    def held_by(self, attempt: Attempt) -> Export | None:
        """The export if this attempt holds its claim, else None."""
        export = self.exports.get(attempt.claim.export_id)
        return export if export is not None and export.claim_id == attempt.claim.claim_id else None

    def begin(self, export: Export, claim: Claim, lease_until: datetime) -> Attempt:
        export.slot = self.free_slot(export.space_id)
        export.status, export.attempts = "processing", export.attempts + 1
        export.claim_id, export.lease_until = claim.claim_id, lease_until
        attempt = self.attempts[claim.claim_id] = Attempt(claim, self.now)
        return attempt

    def end(self, export: Export, status: str, outcome: str) -> None:
        """End the running attempt and write its receipt."""
        assert export.claim_id is not None
        attempt = self.attempts[export.claim_id]
        attempt.ended_at, attempt.outcome = self.now, outcome
        export.status, export.claim_id, export.lease_until, export.slot = status, None, None, None
        if status != "queued":
            export.finished_at = self.now

    def hand_back(self, export: Export) -> None:
        self.end(export, "queued", "handed_back")
        export.attempts, export.handed_back, export.run_after = export.attempts - 1, export.handed_back + 1, self.now

    def cancel(self, export: Export) -> None:
        if export.status == "processing":
            self.end(export, "cancelled", "cancelled")
        elif export.status == "queued":
            export.status, export.finished_at = "cancelled", self.now
        elif export.status == "completed":
            export.status, export.file_delete_after = "expired", self.now

    def kick(self, export: Export) -> None:
        if export.status == "processing":
            self.hand_back(export)
        elif export.status == "queued":
            export.run_after = self.now

    def rescue(self, *, pause: timedelta) -> dict[UUID, str]:
        """The rescued claims and the new statuses of their exports."""
        rescued = {}
        for export in self.exports.values():
            if export.claim_id is not None and export.lease_until is not None and export.lease_until < self.now:
                rescued[export.claim_id] = "failed" if export.attempts == export.max_attempts else "queued"
                self.end(export, rescued[export.claim_id], "lost")
                export.run_after, export.lost_leases = self.now + pause * export.lost_leases, export.lost_leases + 1
        return rescued

    def expire(self, *, links_live: timedelta) -> list[int]:
        """The exports that are due to expire."""
        expired = []
        for export in self.exports.values():
            if export.status == "completed" and export.file_expires_at and export.file_expires_at < self.now:
                export.status, export.file_delete_after = "expired", self.now + links_live
                expired.append(export.export_id)
        return expired

    def leftovers(self, grace: timedelta) -> set[UUID]:
        return {
            attempt.claim.claim_id
            for attempt in self.attempts.values()
            if not attempt.cleaned
            and not attempt.forgotten
            and self.held_by(attempt) is None
            and self.exports[attempt.claim.export_id].object_name != attempt.claim.object_name
            and (attempt.ended_at or attempt.started_at) < self.now - grace
        }

    def in_use(self) -> set[str]:
        """Names of the objects that must be kept."""
        published = {each.object_name for each in self.exports.values() if each.object_name and not each.file_deleted}
        return published | {each.claim.object_name for each in self.attempts.values() if self.held_by(each)}

    def old(self, age: timedelta) -> list[Export]:
        """Exports whose rows may be deleted."""
        unclean = {each.claim.export_id for each in self.attempts.values() if not each.cleaned and not each.forgotten}
        return [
            each
            for each in self.exports.values()
            if each.finished_at is not None
            and each.finished_at < self.now - age
            and (each.status in ("failed", "cancelled") or each.file_deleted)
            and each.export_id not in unclean
        ]

    def forget(self, export: Export) -> None:
        del self.exports[export.export_id]
        for attempt in self.attempts_of(export):
            attempt.forgotten = True

    def attempts_of(self, export: Export) -> Iterator[Attempt]:
        return (each for each in self.attempts.values() if each.claim.export_id == export.export_id)

    def pass_time(self, duration: timedelta) -> None:
        for each in (*self.exports.values(), *self.attempts.values()):
            for name, value in vars(each).items():
                if isinstance(value, datetime):
                    setattr(each, name, value - duration)

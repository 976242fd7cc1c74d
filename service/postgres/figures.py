"""Figures of the whole installation for metrics and the operator's page, read with one statement."""

from dataclasses import dataclass, fields

from service.postgres.pool import Database


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """Numbers of exports. The ended ones are those that ended within the last 24 hours, by their present state."""

    ready: int
    """Queued, and claimable as soon as a slot is free."""
    waits_for_retry: int
    paused: int
    """Queued in Spaces that are paused."""
    oldest_age: float
    """Seconds for which the first of the ready exports could have been claimed; 0 if there is none."""
    starting: int
    reading: int
    completing: int
    overdue_leases: int
    """Running exports whose lease expired more than a minute ago: nobody rescues them."""
    completed: int
    failed: int
    cancelled: int
    expired: int
    overdue_files: int
    """Files that should have been deleted more than an hour ago."""

    @property
    def queued(self) -> int:
        """All queued exports."""
        return self.ready + self.waits_for_retry + self.paused

    @property
    def running(self) -> int:
        """All running exports."""
        return self.starting + self.reading + self.completing


class Figures:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def queue(self) -> QueueFigures:
        """The figures now. The cost grows with the queue and with the exports of a day, not with the history."""
        row = await self._database.read_row("queue_figures")
        assert row is not None
        return QueueFigures(**{field.name: row[field.name] for field in fields(QueueFigures)})

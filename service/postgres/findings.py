"""What the check of an adopter's relations found: each finding has a sentence and says how to mend it."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum


class Level(IntEnum):
    """How bad a finding is; the number is the exit code of the command that shows it."""

    WARNING = 1
    """Exports work, but are slow, lack a guarantee or leave values out."""
    FAULT = 2
    """Exports fail, or their files are wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault or warning. `code` is stable, `place` is a relation, a column or "database", `mend` says what to do."""

    level: Level
    code: str
    place: str
    text: str
    mend: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a relation. `nullable` is None for views, because Postgres does not know it."""

    name: str
    type: str
    nullable: bool | None


@dataclass(frozen=True, slots=True)
class Relation:
    """One of the three relations: its name with the schema, and what it is (table, view, …)."""

    name: str
    found_as: str
    kind: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the query of an export returned rows. Seconds count from the start of the query."""

    extras: str
    rows: int
    first_row_seconds: float
    seconds: float

    @property
    def rows_per_second(self) -> int:
        """Rows per second, with the time until the first row."""
        return int(self.rows / max(self.seconds, 0.001))


@dataclass(slots=True)
class Report:
    """Everything that the check found out. Fields that it did not reach are None or empty."""

    findings: list[Finding] = field(default_factory=list)
    source: str = ""
    """Which database was read, without user and password."""
    setting: str = ""
    """The setting that names the database that was read."""
    role: str | None = None
    """The role that read it."""
    relations: list[Relation] = field(default_factory=list)
    space_id: int | None = None
    """The Space whose export was planned and measured."""
    plan: str | None = None
    """The top nodes of the plan of an export with all extras, outermost first."""
    speeds: list[Speed] = field(default_factory=list)
    complete_until: datetime | None = None
    """What a whole export of the Space would have now; None if it would be null."""

    def fault(self, code: str, place: str, text: str, mend: str) -> None:
        """Add a fault."""
        self.findings.append(Finding(Level.FAULT, code, place, text, mend))

    def warn(self, code: str, place: str, text: str, mend: str) -> None:
        """Add a warning."""
        self.findings.append(Finding(Level.WARNING, code, place, text, mend))

    def count(self, level: Level) -> int:
        """The number of findings of a level."""
        return sum(finding.level is level for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0 without findings, 1 with warnings, 2 with faults."""
        return max((finding.level for finding in self.findings), default=0)

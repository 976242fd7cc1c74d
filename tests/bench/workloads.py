"""What is exported: three combinations of extras, and ranges of dates."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Workload:
    """A combination of extras; `name` is its key in the results."""

    name: str
    tokens: bool
    emails: bool

    @property
    def body(self) -> dict[str, int]:
        """The extras as the API takes them."""
        return {"include_comet_tokens": int(self.tokens), "include_all_emails": int(self.emails)}


BASE = Workload("base", tokens=False, emails=False)
TOKENS = Workload("tokens", tokens=True, emails=False)
BOTH = Workload("both", tokens=True, emails=True)
WORKLOADS = {workload.name: workload for workload in (BASE, TOKENS, BOTH)}


@dataclass(frozen=True, slots=True)
class Dates:
    """A range of creation times in whole seconds, `end` excluded. All Spaces here use UTC."""

    start: datetime
    end: datetime

    @property
    def body(self) -> dict[str, str]:
        """The range as the API takes it: both dates are inclusive."""
        last = self.end - timedelta(seconds=1)
        return {"start_date": f"{self.start:%Y-%m-%d %H:%M:%S}", "end_date": f"{last:%Y-%m-%d %H:%M:%S}"}


YEAR = Dates(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
"""Contains all contacts."""
EMPTY = Dates(datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC))
"""Contains no contact."""

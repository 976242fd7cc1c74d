"""What is exported: three sets of options, and a range of dates."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass(frozen=True, slots=True)
class Workload:
    """One set of options, under its name in the results."""

    name: str
    tokens: bool
    emails: bool

    @property
    def body(self) -> dict[str, int]:
        """The options as the API takes them."""
        return {"include_comet_tokens": int(self.tokens), "include_all_emails": int(self.emails)}


BASE = Workload("base", tokens=False, emails=False)
TOKENS = Workload("tokens", tokens=True, emails=False)
BOTH = Workload("both", tokens=True, emails=True)
WORKLOADS = {workload.name: workload for workload in (BASE, TOKENS, BOTH)}


@dataclass(frozen=True, slots=True)
class Dates:
    """A range of creation times: `start` is in it, `end` is not. Whole seconds in UTC, the timezone of all Spaces here."""

    start: datetime
    end: datetime

    @property
    def body(self) -> dict[str, str]:
        """The range as the API takes it: both dates inclusive."""
        last = self.end - timedelta(seconds=1)
        return {"start_date": f"{self.start:%Y-%m-%d %H:%M:%S}", "end_date": f"{last:%Y-%m-%d %H:%M:%S}"}


YEAR = Dates(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
"""All contacts are created in it."""
EMPTY = Dates(datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC))
"""None is created in it."""

"""The results of a run: violated invariants, and counts of what happened."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """`first` is set on the first violation; times are seconds since the start of the run."""

    started_at: float = field(default_factory=time.monotonic)
    violations: list[str] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    first_after: float | None = None
    actions: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)

    def violation(self, invariant: str, detail: str) -> None:
        """Record a violated invariant, once per text."""
        text = f"{invariant}: {detail}"
        if text in self.violations:
            return
        if self.first_after is None:
            self.first_after = round(self.elapsed, 1)
        self.violations.append(text)
        self.first.set()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started_at

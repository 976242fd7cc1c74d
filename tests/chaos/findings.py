"""What a run found and did: violations of what must hold, and counts of what happened."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Findings:
    """`first` is set with the first violation; times are in seconds since the start."""

    started_at: float = field(default_factory=time.monotonic)
    violations: list[str] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)
    first_after: float | None = None
    actions: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, float] = field(default_factory=dict)

    def violation(self, invariant: str, detail: str) -> None:
        """Note something that must not be."""
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

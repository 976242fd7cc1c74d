"""Faults that are more or less frequent in one run than in others."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Focus:
    """Additional failpoints for each process, and different weights for some actions."""

    failpoints: tuple[str, ...] = ()
    actions: Mapping[str, float] = field(default_factory=dict)


NOWHERE = Focus()

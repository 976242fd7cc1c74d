"""What goes wrong more or less often in one run than in others."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Focus:
    """Further failpoints for each process, and other weights for some of the actions."""

    failpoints: tuple[str, ...] = ()
    actions: Mapping[str, float] = field(default_factory=dict)


NOWHERE = Focus()

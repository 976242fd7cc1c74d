"""Percentiles."""

import math
from collections.abc import Iterable


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that is not exceeded by at least `percent` percent of the values (nearest rank)."""
    ascending = sorted(values)
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]

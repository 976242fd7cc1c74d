"""Percentiles."""

import math
from collections.abc import Iterable


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed (nearest rank)."""
    ascending = sorted(values)
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]

"""When a failed delivery is tried again: ten attempts within about three days."""

import random
from datetime import timedelta

PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""The pause after each failed attempt; after one more failure the delivery is given up."""
SPREAD = 0.1
"""Pauses vary by ±10 %, so that deliveries that failed together are not tried together."""
LONGEST_RETRY_AFTER = timedelta(days=1)
DISABLE_AFTER = timedelta(days=5)
"""An endpoint is disabled when an attempt fails and none has succeeded for this long."""


def pause_after(attempt: int, *, retry_after: timedelta | None = None) -> timedelta | None:
    """The pause after a failed attempt, counted from 1; None after the last one.

    It is at least `retry_after`, of which more than a day counts as a day.
    """
    if attempt > len(PAUSES):
        return None
    pause = PAUSES[attempt - 1] * random.uniform(1 - SPREAD, 1 + SPREAD)
    return max(pause, min(retry_after or timedelta(0), LONGEST_RETRY_AFTER))

"""How often a Space may call, and the headers that say so."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import limits
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from limits.util import WindowStats

from service.errors import RateLimited, RateLimitsUnavailable
from service.postgres.rate_limits import PostgresStorage

_CALL_TIMEOUT = 10.0
"""Seconds. A bound for stores that have none of their own; beyond the one of the database's pool."""


class Bucket(StrEnum):
    """What is counted together, per Space; the value names the policy in the headers."""

    CREATE_EXPORT = "create-export"
    GET_EXPORT = "get-export"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a bucket after a call, or at a look at it."""

    bucket: Bucket
    limit: int
    window: int
    """Seconds."""
    remaining: int
    reset: int | None
    """Whole seconds, rounded up, until the oldest hit leaves the window; None without hits."""
    granted: bool = True

    @property
    def headers(self) -> Mapping[str, str]:
        """The reference's two headers, and the two of draft-ietf-httpapi-ratelimit-headers-10."""
        reset = "" if self.reset is None else f";t={self.reset}"
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "RateLimit-Policy": f'"{self.bucket}";q={self.limit};w={self.window}',
            "RateLimit": f'"{self.bucket}";r={self.remaining}{reset}',
        }

    def check(self) -> None:
        """Raises RateLimited where the call was not granted; waiting as long as it says succeeds."""
        if not self.granted:
            # The oldest hit may have left the window since the refusal: then there is room now.
            raise RateLimited(1 if self.remaining or self.reset is None else self.reset)


class Throttle:
    """Counts the calls of each Space in moving windows; a limit is written as `limits` reads it: `5/minute`.

    Raises ValueError for a limit that is not written so, or allows no call at all.
    """

    def __init__(self, storage: Storage, *, create_export: str, get_export: str, other: str) -> None:
        self._storage = storage
        self._limiter = MovingWindowRateLimiter(storage)
        self._items = {
            Bucket.CREATE_EXPORT: _limit(create_export),
            Bucket.GET_EXPORT: _limit(get_export),
            Bucket.OTHER: _limit(other),
        }

    async def hit(self, bucket: Bucket, space_id: int) -> Allowance:
        """Count a call if there is room for it. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._ask(bucket, space_id, count=True)

    async def look(self, bucket: Bucket, space_id: int) -> Allowance:
        """What is left, without counting. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._ask(bucket, space_id, count=False)

    async def _ask(self, bucket: Bucket, space_id: int, *, count: bool) -> Allowance:
        item, granted = self._items[bucket], True
        try:
            async with asyncio.timeout(_CALL_TIMEOUT):
                if count:
                    granted, (reset_time, remaining) = await self._hit(item, bucket, str(space_id))
                else:
                    reset_time, remaining = await self._limiter.get_window_stats(item, bucket, str(space_id))
        except (StorageError, TimeoutError) as error:
            raise RateLimitsUnavailable(detail=type(error).__name__) from error
        reset = max(1, math.ceil(reset_time - time.time())) if remaining < item.amount else None
        return Allowance(bucket, item.amount, item.get_expiry(), max(0, remaining), reset, granted)

    async def _hit(self, item: limits.RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        if isinstance(self._storage, PostgresStorage):
            # One statement in place of the library's two: a request waits for the event loop at each.
            window = await self._storage.hit(item.key_for(*identifiers), item.amount, item.get_expiry())
            if window is not None:
                oldest, hits = window
                return True, WindowStats(oldest + item.get_expiry(), item.amount - hits)
            granted = False
        else:
            granted = await self._limiter.hit(item, *identifiers)
        return granted, await self._limiter.get_window_stats(item, *identifiers)


def _limit(text: str) -> limits.RateLimitItem:
    try:
        item = limits.parse(text)
    except ValueError:
        item = None
    if item is None or item.amount < 1:
        raise ValueError(f'a rate limit is written like "5/minute" and allows at least one call, unlike "{text}"')
    return item

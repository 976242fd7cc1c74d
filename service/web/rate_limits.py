"""Rate limits per Space, and the response headers that report them."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from limits import RateLimitItem, parse
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import StorageError
from limits.util import WindowStats

from service.errors import RateLimited, RateLimitsUnavailable
from service.postgres.rate_limits import PostgresStorage

_CALL_TIMEOUT = 10.0
"""Deadline of a call to the rate-limit store, in seconds. Longer than the database's own; other stores have none."""


class RateLimitBucket(StrEnum):
    """Calls that share one limit. The value is the name of the policy in the response headers.

    A new bucket is a line here and a line in the mapping that the process hands to `Throttle`.
    """

    CREATE_EXPORT = "create-export"
    GET_EXPORT = "get-export"
    LIST_CONTACTS = "list-contacts"
    GET_CONTACT = "get-contact"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Allowance:
    """The state of a rate-limit bucket after a call or a read-only check."""

    bucket: RateLimitBucket
    limit: int
    window: int
    """Seconds."""
    remaining: int
    reset: int | None
    """Seconds until the oldest hit leaves the window, rounded up; None without hits."""
    granted: bool = True

    @property
    def headers(self) -> Mapping[str, str]:
        """`X-RateLimit-…`, and the headers of draft-ietf-httpapi-ratelimit-headers-10."""
        reset = "" if self.reset is None else f";t={self.reset}"
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "RateLimit-Policy": f'"{self.bucket}";q={self.limit};w={self.window}',
            "RateLimit": f'"{self.bucket}";r={self.remaining}{reset}',
        }

    def check(self) -> None:
        """Raises RateLimited if the call was not granted. A call after its `retry_after` seconds succeeds."""
        if not self.granted:
            # If the oldest hit has left the window since the refusal, a call fits now.
            raise RateLimited(1 if self.remaining or self.reset is None else self.reset)


class Throttle:
    """Counts the calls of each Space in moving windows.

    `limits` has one entry for each bucket, written as the `limits` library reads it: `5/minute`. Raises ValueError if an
    entry is missing, is not written like that, or allows no call.
    """

    def __init__(self, storage: Storage, limits: Mapping[RateLimitBucket, str]) -> None:
        if missing := [bucket for bucket in RateLimitBucket if bucket not in limits]:
            raise ValueError(f"there is no rate limit for {', '.join(missing)}")
        self._storage = storage
        self._limiter = MovingWindowRateLimiter(storage)
        self._items = {bucket: _parse_limit(text) for bucket, text in limits.items()}

    @property
    def quotas(self) -> Mapping[RateLimitBucket, tuple[int, int]]:
        """For each bucket, the number of calls that fit into the window, and its length in seconds."""
        return {bucket: (item.amount, item.get_expiry()) for bucket, item in self._items.items()}

    async def hit(self, bucket: RateLimitBucket, space_id: int) -> Allowance:
        """Count a call if it fits into the window. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._read(bucket, space_id, count=True)

    async def peek(self, bucket: RateLimitBucket, space_id: int) -> Allowance:
        """Read the state without counting a call. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._read(bucket, space_id, count=False)

    async def _read(self, bucket: RateLimitBucket, space_id: int, *, count: bool) -> Allowance:
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

    async def _hit(self, item: RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        if isinstance(self._storage, PostgresStorage):
            # One statement instead of the library's two: each one makes the request wait for the event loop.
            window = await self._storage.hit(item.key_for(*identifiers), item.amount, item.get_expiry())
            if window is not None:
                oldest, hits = window
                return True, WindowStats(oldest + item.get_expiry(), item.amount - hits)
            granted = False
        else:
            granted = await self._limiter.hit(item, *identifiers)
        return granted, await self._limiter.get_window_stats(item, *identifiers)


def _parse_limit(text: str) -> RateLimitItem:
    try:
        item = parse(text)
    except ValueError:
        item = None
    if item is None or item.amount < 1:
        raise ValueError(f'the rate limit "{text}" must be written like "5/minute" and allow at least one call')
    return item

"""Rate limits per Space, and the response headers that report them."""

import asyncio
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Self

from limits import RateLimitItem, parse_many
from limits.errors import StorageError
from limits.util import WindowStats

from service.access import PresentedKey
from service.errors import RateLimited, RateLimitsUnavailable
from service.model import Scope
from service.postgres.access import Credential
from service.web.rate_limit_windows import RateLimitWindows

_CALL_TIMEOUT = timedelta(seconds=10)
"""Deadline of a call to the rate-limit store. Longer than the database's own; other stores have none."""
_MOST_CALLS = 1_000_000
_LONGEST_WINDOW = timedelta(days=366)


class RateLimitBucket(StrEnum):
    """Calls that share one limit: the name of the policy in the response headers, and the setting with the limit.

    A new bucket is one line here, and its setting in `service.settings`.
    """

    setting: str

    def __new__(cls, policy: str, setting: str) -> Self:
        """Make the member whose value is `policy`."""
        member = str.__new__(cls, policy)
        member._value_ = policy
        member.setting = setting
        return member

    CREATE_EXPORT = "create-export", "rate_limit_create"
    GET_EXPORT = "get-export", "rate_limit_status"
    LIST_CONTACTS = "list-contacts", "rate_limit_contacts"
    GET_CONTACT = "get-contact", "rate_limit_contact"
    OTHER = "other", "rate_limit_other"


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

    `limits` has one entry for each bucket, as `parse_limit` reads it. Raises ValueError if an entry is missing or wrong.
    """

    def __init__(self, windows: RateLimitWindows, limits: Mapping[RateLimitBucket, str]) -> None:
        if missing := [bucket for bucket in RateLimitBucket if bucket not in limits]:
            raise ValueError(f"there is no rate limit for {', '.join(missing)}")
        self._windows = windows
        self._items = {bucket: parse_limit(text) for bucket, text in limits.items()}

    @property
    def quotas(self) -> Mapping[RateLimitBucket, tuple[int, int]]:
        """For each bucket, the number of calls that fit into the window, and its length in seconds."""
        return {bucket: (item.amount, item.get_expiry()) for bucket, item in self._items.items()}

    async def hit(self, bucket: RateLimitBucket, space_id: int) -> Allowance:
        """Count a call if it fits into the window. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._read(bucket, space_id, count=True)

    async def admit(
        self, bucket: RateLimitBucket, key: PresentedKey, scope: Scope
    ) -> tuple[Credential | None, Allowance | None] | None:
        """Look a key up and count the call, if the key allows it and it fits: a faster way to the same result as both steps.

        None if the windows are not in the database of the keys. Raises DatabaseUnavailable.
        """
        item = self._items[bucket]
        admission = await self._windows.admit(item, bucket, key.key_id, key.sha256, scope)
        if admission is None:
            return None
        window = admission.window
        return admission.credential, None if window is None else _allowance(bucket, item, window)

    async def peek(self, bucket: RateLimitBucket, space_id: int) -> Allowance:
        """Read the state without counting a call. Raises DatabaseUnavailable or RateLimitsUnavailable."""
        return await self._read(bucket, space_id, count=False)

    async def _read(self, bucket: RateLimitBucket, space_id: int, *, count: bool) -> Allowance:
        item, granted = self._items[bucket], True
        try:
            async with asyncio.timeout(_CALL_TIMEOUT.total_seconds()):
                if count:
                    granted, window = await self._windows.hit(item, bucket, str(space_id))
                else:
                    window = await self._windows.stats(item, bucket, str(space_id))
        except (StorageError, TimeoutError) as error:
            raise RateLimitsUnavailable(detail=type(error).__name__) from error
        return _allowance(bucket, item, window, granted=granted)


def _allowance(bucket: RateLimitBucket, item: RateLimitItem, window: WindowStats, *, granted: bool = True) -> Allowance:
    reset = max(1, math.ceil(window.reset_time - time.time())) if window.remaining < item.amount else None
    return Allowance(bucket, item.amount, item.get_expiry(), max(0, window.remaining), reset, granted)


def parse_limit(text: str) -> RateLimitItem:
    """The limit that a text such as `5/minute` means. Raises ValueError; its message follows the name of a setting."""
    try:
        (item,) = parse_many(text)
    except ValueError:
        item = None
    if item is None or item.amount < 1:
        raise ValueError("must be a limit such as 5/minute")
    if item.amount > _MOST_CALLS or item.get_expiry() > _LONGEST_WINDOW.total_seconds():
        raise ValueError("must be at most 1,000,000 calls in at most 366 days")
    return item

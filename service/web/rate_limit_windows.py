"""Where the hits of rate limits are counted: in the main database, or in a store of the `limits` library."""

from typing import Protocol, cast

from limits import RateLimitItem
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError
from limits.storage import storage_from_string
from limits.util import WindowStats

from service.errors import RateLimitStorageUnusable
from service.model import Scope
from service.postgres.pool import Database
from service.postgres.rate_limits import Admission, PostgresWindows

_OWN_SCHEME = "async+postgres:"


class RateLimitWindows(Protocol):
    """Moving windows of hits. Methods raise DatabaseUnavailable, or StorageError of the `limits` library."""

    async def hit(self, item: RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        """Record a hit if it fits into the window; whether it did, and the window after it."""

    async def admit(
        self, item: RateLimitItem, bucket: str, key_id: str, key_sha256: bytes, scope: Scope
    ) -> Admission | None:
        """Look an API key up, and record a hit of its Space if it allows the call. None if the keys are elsewhere."""

    async def stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the oldest hit leaves the window, as `time.time()`, and how many calls still fit."""

    async def prune(self) -> int:
        """Delete windows whose hits have all expired; returns the count."""


class LibraryWindows:
    """Windows in a storage of the library, such as Redis."""

    def __init__(self, storage: Storage) -> None:
        self._limiter = MovingWindowRateLimiter(storage)

    async def hit(self, item: RateLimitItem, *identifiers: str) -> tuple[bool, WindowStats]:
        """As `RateLimitWindows.hit`."""
        return await self._limiter.hit(item, *identifiers), await self.stats(item, *identifiers)

    async def admit(self, item: RateLimitItem, bucket: str, key_id: str, key_sha256: bytes, scope: Scope) -> None:
        """None: these storages know no keys."""

    async def stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """As `RateLimitWindows.stats`."""
        return await self._limiter.get_window_stats(item, *identifiers)

    async def prune(self) -> int:
        """0: these storages delete expired windows themselves."""
        return 0


def open_windows(url: str, database: Database) -> RateLimitWindows:
    """The windows that a URL names: `async+postgres://` (the given database), `async+redis://…` or `async+memory://`.

    Does not connect yet. Raises RateLimitStorageUnusable; its detail names a missing package.
    """
    if url.startswith(_OWN_SCHEME):
        return PostgresWindows(database)
    try:
        return LibraryWindows(cast(Storage, storage_from_string(url, wrap_exceptions=True)))
    except (ConfigurationError, ValueError):
        # Their messages may contain the URL, which may contain a password.
        needs = "RATE_LIMIT_STORAGE_URL=async+redis://host:port needs the package coredis; install the extra `redis`"
        raise RateLimitStorageUnusable(needs if url.startswith("async+redis") else None) from None

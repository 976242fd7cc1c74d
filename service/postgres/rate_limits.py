"""A storage for the `limits` library in the main database: windows that hold across replicas and restarts.

The database's clock alone decides what is in a window. What crosses to Python is the age of a hit, never its
time of day, so a process whose clock is wrong still says truly how long to wait.
"""

import time
from datetime import timedelta
from typing import Any, NoReturn, cast

from limits.aio.storage import MovingWindowSupport, Storage
from limits.errors import ConfigurationError
from limits.storage import storage_from_string

from service.errors import RateLimitStorageUnusable
from service.postgres.pool import Database

SCHEME = "async+postgres"
_PRUNE_BATCH = 1000
"""Rows one call removes at most, so that it ends well within the time a statement may take."""


class PostgresStorage(Storage, MovingWindowSupport):
    """Windows in the table `rate_limit_windows`. Methods raise DatabaseUnavailable: no hit passes unseen."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - declared so by the library

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, *, database: Database) -> None:
        super().__init__(uri, wrap_exceptions)
        self._database = database

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """None: `Database` has translated the driver's errors already."""
        return ()

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Record `amount` hits unless more than `limit` would then lie within the last `expiry` seconds."""
        return await self.hit(key, limit, expiry, amount) is not None

    async def hit(self, key: str, limit: int, expiry: int, amount: int = 1) -> tuple[float, int] | None:
        """Record `amount` hits if they fit, in one statement: None where they do not, else start and count of the window."""
        if amount > limit:
            return None
        row = await self._database.fetch_row("record_hits", key, limit, timedelta(seconds=expiry), amount)
        return None if row is None else (time.time() - row["age"], row["hits"])

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest hit of the last `expiry` seconds was, by our `time.time()`, and how many are."""
        row = await self._database.read_row("rate_limit_window", key, timedelta(seconds=expiry))
        assert row is not None
        return time.time() - (row["age"] or 0.0), row["hits"]

    async def prune(self) -> int:
        """Remove rows of which nothing counts any more, a batch at a time; returns how many."""
        return len(await self._database.fetch("prune_rate_limits", _PRUNE_BATCH))

    async def check(self) -> bool:
        """Whether the table can be read."""
        await self.get_moving_window("", 1, 1)
        return True

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not offered: it belongs to the fixed window."""
        _moving_window_only()

    async def get(self, key: str) -> int:
        """Not offered: it belongs to the fixed window."""
        _moving_window_only()

    async def get_expiry(self, key: str) -> float:
        """Not offered: it belongs to the fixed window."""
        _moving_window_only()

    async def reset(self) -> int | None:
        """Not offered: nothing here forgets the windows of every Space."""
        _moving_window_only()

    async def clear(self, key: str) -> None:
        """Not offered: nothing here forgets a window."""
        _moving_window_only()


def open_storage(url: str, database: Database) -> Storage:
    """The storage that a URL names: `async+postgres://` (the given database), `async+redis://…` or `async+memory://`.

    Connects to nothing yet. Raises RateLimitStorageUnusable, naming what is missing.
    """
    own = url.startswith(f"{SCHEME}:")
    options: dict[str, Any] = {"database": database} if own else {"wrap_exceptions": True}
    try:
        return cast(Storage, storage_from_string(url, **options))
    except (ConfigurationError, ValueError):
        # Their texts may quote the URL, and with it a password.
        needs = "RATE_LIMIT_STORAGE_URL=async+redis://host:port needs the extra: pip install 'contact-exports[redis]'"
        raise RateLimitStorageUnusable(needs if url.startswith("async+redis") else None) from None


def _moving_window_only() -> NoReturn:
    raise NotImplementedError(f"{SCHEME} keeps moving windows only")

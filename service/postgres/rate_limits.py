"""A storage of the `limits` library in the main database, so that windows are shared by replicas and survive restarts.

Only the database's clock decides which hits are in a window. Python gets the age of a hit, never its time of day, so a
process with a wrong clock still reports the right waiting time.
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
"""Rows per call, so that the statement finishes well within its timeout."""


class PostgresStorage(Storage, MovingWindowSupport):
    """Windows in the table `rate_limit_windows`. Methods raise DatabaseUnavailable, so no hit goes uncounted."""

    STORAGE_SCHEME: list[str] | None = [SCHEME]  # noqa: RUF012 - declared like this by the library

    def __init__(  # the library passes the first two by position
        self,
        uri: str | None = None,
        wrap_exceptions: bool = False,  # noqa: FBT001, FBT002 - as above
        *,
        database: Database,
    ) -> None:
        super().__init__(uri, wrap_exceptions)
        self._database = database

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Empty, because `Database` already translates the driver's errors."""
        return ()

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Record `amount` hits if at most `limit` are then within the last `expiry` seconds; False if they do not fit."""
        return await self.hit(key, limit, expiry, amount) is not None

    async def hit(self, key: str, limit: int, expiry: int, amount: int = 1) -> tuple[float, int] | None:
        """Like `acquire_entry`, in one statement: start and hit count of the window, or None if the hits do not fit."""
        if amount > limit:
            return None
        row = await self._database.fetch_row("record_hits", key, limit, timedelta(seconds=expiry), amount)
        return None if row is None else (time.time() - row["age"], row["hits"])

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """Time of the oldest hit of the last `expiry` seconds, as `time.time()`, and the number of hits."""
        row = await self._database.read_row("rate_limit_window", key, timedelta(seconds=expiry))
        assert row is not None
        return time.time() - (row["age"] or 0.0), row["hits"]

    async def prune(self) -> int:
        """Delete windows whose hits have all expired, one batch per call; returns the count."""
        return len(await self._database.fetch("prune_rate_limits", _PRUNE_BATCH))

    async def check(self) -> bool:
        """Whether the table can be read."""
        await self.get_moving_window("", 1, 1)
        return True

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not supported: needed only for fixed windows."""
        _moving_window_only()

    async def get(self, key: str) -> int:
        """Not supported: needed only for fixed windows."""
        _moving_window_only()

    async def get_expiry(self, key: str) -> float:
        """Not supported: needed only for fixed windows."""
        _moving_window_only()

    async def reset(self) -> int | None:
        """Not supported: nothing here clears the windows of all Spaces."""
        _moving_window_only()

    async def clear(self, key: str) -> None:
        """Not supported: nothing here clears a window."""
        _moving_window_only()


def open_storage(url: str, database: Database) -> Storage:
    """The storage for a URL: `async+postgres://` (the given database), `async+redis://…` or `async+memory://`.

    Does not connect yet. Raises RateLimitStorageUnusable; its detail names a missing package.
    """
    own = url.startswith(f"{SCHEME}:")
    options: dict[str, Any] = {"database": database} if own else {"wrap_exceptions": True}
    try:
        return cast(Storage, storage_from_string(url, **options))
    except (ConfigurationError, ValueError):
        # Their messages may contain the URL, which may contain a password.
        needs = "RATE_LIMIT_STORAGE_URL=async+redis://host:port needs the extra: pip install 'contact-exports[redis]'"
        raise RateLimitStorageUnusable(needs if url.startswith("async+redis") else None) from None


def _moving_window_only() -> NoReturn:
    raise NotImplementedError(f"{SCHEME} supports moving windows only")

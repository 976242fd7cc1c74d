"""The lifetime of one upload: begun, then completed or aborted, even if the task is cancelled at any moment."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol, TypeVar

CLEANUP_TIMEOUT = timedelta(seconds=5)
"""Longest wait for a cancelled `begin`, and for the abort after it. Most cancellations come from a shutdown."""


class Completable(Protocol):
    """An upload that records its completion."""

    @property
    def completed(self) -> bool:
        """True after `complete` succeeded."""


U = TypeVar("U", bound=Completable)


@asynccontextmanager
async def upload_scope(
    begin: Callable[[], Coroutine[Any, Any, U]], abandon: Callable[[U], Coroutine[Any, Any, None]]
) -> AsyncIterator[U]:
    """Own the upload that `begin` returns. Leaving the block without completion awaits `abandon`.

    `abandon` must limit its own duration and must not raise. Both run to completion even when cancelled, because an
    upload just created on the store would otherwise leak; CancelledError is re-raised afterwards.
    """
    upload = await _begun(begin(), abandon)
    try:
        yield upload
    finally:
        if not upload.completed:
            await _finished(abandon(upload))


async def _begun(begin: Coroutine[Any, Any, U], abandon: Callable[[U], Coroutine[Any, Any, None]]) -> U:
    beginning = asyncio.create_task(begin)
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        await _finished(_undo(beginning, abandon))
        raise


async def _undo(beginning: asyncio.Task[U], abandon: Callable[[U], Awaitable[None]]) -> None:
    await asyncio.wait({beginning}, timeout=CLEANUP_TIMEOUT.total_seconds())
    if not beginning.done():
        beginning.cancel()
        await asyncio.wait({beginning})
    if not beginning.cancelled() and beginning.exception() is None:
        await abandon(beginning.result())


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Await `work` until it finishes, even if cancelled any number of times; then re-raise the cancellation."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()

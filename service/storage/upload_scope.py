"""The life of one upload: begun, then completed or abandoned, whatever is cancelled and when."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

CLEANUP_SECONDS = 5.0
"""How long a cancelled `begin`, and then an abort, may take: cancelling comes at shutdown, where little time is left."""


class Completable(Protocol):
    """An upload that knows whether it has become an object."""

    @property
    def completed(self) -> bool:
        """True once `complete` has succeeded."""


U = TypeVar("U", bound=Completable)


@asynccontextmanager
async def upload_scope(
    begin: Callable[[], Coroutine[Any, Any, U]], abandon: Callable[[U], Coroutine[Any, Any, None]]
) -> AsyncIterator[U]:
    """Own what `begin` returns; leaving without completion awaits `abandon`, which must bound itself and not raise.

    Cancelling cuts neither short: an upload that the store began just before would stay for ever. It is raised after.
    """
    upload = await _begun(begin(), abandon)
    try:
        yield upload
    finally:
        if not upload.completed:
            await _to_the_end(abandon(upload))


async def _begun(begin: Coroutine[Any, Any, U], abandon: Callable[[U], Coroutine[Any, Any, None]]) -> U:
    beginning = asyncio.create_task(begin)
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        await _to_the_end(_undo(beginning, abandon))
        raise


async def _undo(beginning: asyncio.Task[U], abandon: Callable[[U], Awaitable[None]]) -> None:
    await asyncio.wait({beginning}, timeout=CLEANUP_SECONDS)
    if not beginning.done():
        beginning.cancel()
        await asyncio.wait({beginning})
    if not beginning.cancelled() and beginning.exception() is None:
        await abandon(beginning.result())


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await all of `work`, also when cancelled meanwhile, once or more often; then raise the cancellation."""
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

"""Turns for requests that are refused or may be: a few at a time, so that a flood of them delays no other request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from service.errors import DatabaseUnavailable
from service.exports.priority import RequestPriority
from service.web.places import Phase, phase
from service.web.recent import Recent

_AT_ONCE = 2
"""Also the most connections of the pool that lookups of unproven keys use."""
_PATIENCE_SECONDS = 5.0
"""Longest wait for a turn: as long as for a connection of the pool."""
_KNOWN_SECONDS = 600.0
"""How long a key needs no turn after it was verified. It is still looked up at each call."""


class RefusalTurns:
    """Requests with a key that was not verified lately take turns, and so do refusals of known callers.

    Those that wait cost nothing but their connection, which yields to newcomers. Exports do not wait for them.
    """

    def __init__(self, priority: RequestPriority) -> None:
        self._priority = priority
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._known = Recent[bytes, int](_KNOWN_SECONDS)

    def space_of(self, key: bytes) -> int | None:
        """The Space of this key. None if a request with it needs a turn before the key is checked."""
        return self._known.get(key)

    def verified(self, key: bytes, space_id: int) -> None:
        """Record that the key is valid."""
        self._known.put(key, space_id)

    def refused(self, key: bytes) -> None:
        """Record that the key is not valid any more."""
        self._known.discard(key)

    @asynccontextmanager
    async def turn(self, request: web.Request) -> AsyncIterator[None]:
        """Wait for a turn, and have it inside the block. Raises DatabaseUnavailable if that takes too long."""
        try:
            with self._priority.paused(), phase(request, Phase.TURN):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await self._turns.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(detail="too many keys wait to be checked") from None
        try:
            # Without this, all refusals that need no database would follow one another before any other request.
            await asyncio.sleep(0)
            yield
        finally:
            self._turns.release()

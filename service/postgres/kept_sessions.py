"""Sessions on the contacts that an attempt left clean, for the next attempts.

A new session costs the server 12 of the 21 ms of CPU time of an empty export, mostly because it plans the statements of a
snapshot with empty caches.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Self

import asyncpg

_IDLE = timedelta(seconds=5)
"""How long a session is kept without use: many small exports come in bursts, and an idle session takes a connection."""
_AGE = timedelta(seconds=30)
"""How long a session serves attempts. Then the host name is looked up again, and changed defaults of the role apply."""


@dataclass(eq=False)
class Session:
    """A session on the contacts, and the address it was opened with."""

    connection: asyncpg.Connection
    address: str
    opened_at: float = field(default_factory=time.monotonic)
    reused: bool = False
    """Whether it served an earlier attempt, so that its defaults may be outdated."""


class KeptSessions:
    """Keeps sessions for 5 s inside the block.

    An attempt takes a kept session before it opens one. So there are never more sessions than attempts that overlapped.
    """

    def __init__(self) -> None:
        self._kept: dict[Session, asyncio.TimerHandle] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for session, timer in self._kept.items():
            timer.cancel()
            session.connection.terminate()
        self._kept.clear()

    def take(self, address: str) -> Session | None:
        """A session that was opened with this address, if one is kept. The server may have ended it meanwhile."""
        while self._kept:
            session, timer = self._kept.popitem()
            timer.cancel()
            if session.address == address and not session.connection.is_closed():
                return session
            session.connection.terminate()
        return None

    def keep(self, session: Session) -> None:
        """Keep a session that has no transaction, or end it if it is too old."""
        session.reused = True
        if self._closed or time.monotonic() - session.opened_at > _AGE.total_seconds():
            session.connection.terminate()
        else:
            self._kept[session] = asyncio.get_running_loop().call_later(_IDLE.total_seconds(), self._end, session)

    def _end(self, session: Session) -> None:
        del self._kept[session]
        session.connection.terminate()

"""The places for client connections: how many are open, what each is doing, and which one is closed for a newcomer.

A connection that waits for a complete request, or for its turn, is closed as soon as a newcomer needs its place: the one
that has waited longest goes first. If there is none, the response that its client reads most slowly is ended. There is no
limit per address, because many clients may share one proxy.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from typing import Protocol, runtime_checkable

from aiohttp import web

_SWEEP_SECONDS = 1.0
_PIPELINES = 2
_RANK_SECONDS = 0.1
"""How long the order of the responses is remembered: many newcomers may arrive at once."""


class Phase(Enum):
    """What a connection is doing."""

    IDLE = auto()
    HEAD = auto()
    TURN = auto()
    """A request waits for its turn: its key was not verified lately, or it was sent before the response to another."""
    REQUEST = auto()
    """A handler works; it has deadlines of its own."""
    BODY = auto()
    """A handler waits for the body; `bodies.receiving_body` has the deadline."""
    RESPONSE = auto()


_YIELDING = frozenset({Phase.IDLE, Phase.HEAD, Phase.TURN, Phase.BODY})


@runtime_checkable
class Occupant(Protocol):
    """A connection that has a place."""

    @property
    def responding(self) -> bool:
        """Whether a response is being sent."""

    def enter(self, phase: Phase) -> None:
        """Begin a phase and its deadline."""

    def enforce_deadline(self, now: float) -> None:
        """Close the connection if its phase takes too long, or if its client reads nothing."""

    def response_rate(self, now: float) -> float | None:
        """Bytes per second that the client has read of the response; None if none is being sent, or only since just now."""

    def after_response(self, release: Callable[[], None]) -> None:
        """Call `release` once the next response was sent, or the connection is lost."""

    def abort(self) -> None:
        """End the connection without sending what is buffered."""


class Connections:
    """The open connections, at most `maximum`. One that sends a file counts twice, because the file is open too."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open: set[Occupant] = set()
        self._files = 0
        self._yielding: dict[Occupant, None] = {}
        """Connections that are closed for newcomers, the one that has waited longest first."""
        self._slow: deque[Occupant] = deque()
        """Connections that are sending a response, the slowest first, as they were at `_ranked_at`."""
        self._ranked_at = -math.inf
        self._sweeping: asyncio.TimerHandle | None = None
        self._pipelines = asyncio.Semaphore(_PIPELINES)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def responding(self) -> bool:
        """Whether a response is being sent."""
        return any(connection.responding for connection in self._open)

    def add(self, connection: Occupant) -> bool:
        """Register a new connection. False if all places are taken by requests in progress."""
        if not self._make_room():
            return False
        self._open.add(connection)
        self._yielding[connection] = None
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)
        return True

    @contextmanager
    def file(self) -> Iterator[bool]:
        """A file is open inside the block. Yields False if there is no place for it: then it must not be opened."""
        if not self._make_room():
            yield False
            return
        self._files += 1
        try:
            yield True
        finally:
            self._files -= 1

    async def pipeline_turn(self) -> None:
        """Wait before the next request of a connection that sent several at once: the first requests of others go first."""
        async with self._pipelines:
            await asyncio.sleep(0)

    def moved(self, connection: Occupant, phase: Phase) -> None:
        """Record that the connection entered a phase."""
        if connection not in self._open:
            return
        if phase not in _YIELDING:
            self._yielding.pop(connection, None)
        else:
            self._yielding.setdefault(connection)

    def discard(self, connection: Occupant) -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)
        self._yielding.pop(connection, None)

    def _make_room(self) -> bool:
        if len(self._open) + self._files < self._maximum:
            return True
        victim = next(iter(self._yielding), None) or self._slowest()
        if victim is None:
            return False
        self.discard(victim)
        victim.abort()  # closing it would keep its descriptor until the client has read what is buffered
        return True

    def _slowest(self) -> Occupant | None:
        """The connection whose response is read most slowly; None if no response is being sent for a while."""
        now = time.monotonic()
        if not self._slow and now - self._ranked_at > _RANK_SECONDS:
            rates = [(rate, each) for each in self._open if (rate := each.response_rate(now)) is not None]
            self._slow = deque(each for _, each in sorted(rates, key=lambda ranked: ranked[0]))
            self._ranked_at = now
        while self._slow:
            connection = self._slow.popleft()
            if connection in self._open and connection.response_rate(now) is not None:
                return connection
        return None

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in tuple(self._open):
            connection.enforce_deadline(now)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep) if self._open else None


@contextmanager
def phase(request: web.BaseRequest, during: Phase) -> Iterator[None]:
    """The connection of the request is in this phase inside the block, and works on the request after it."""
    connection = request.protocol
    if not isinstance(connection, Occupant):
        yield
        return
    connection.enter(during)
    try:
        yield
    finally:
        connection.enter(Phase.REQUEST)

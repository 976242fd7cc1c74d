"""Large response bodies: sent in pieces, and bounded in bytes over all clients that have not read theirs yet."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

from service.errors import ServiceError
from service.web import limits


class TooMuchUnread(ServiceError):
    """Clients have not read the responses before this one, and nothing makes room for it."""

    code = "too_much_unread"
    message = "Too many large responses are being sent."


class InPieces(Payload):
    """Bytes that are handed to the transport a piece at a time, because the transport copies what it cannot send yet."""

    _autoclose = True

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self._size = len(body)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text of the body."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write every piece once the client has read most of the one before."""
        view = memoryview(self._value)
        for start in range(0, len(view), limits.PIECE):
            await writer.write(view[start : start + limits.PIECE])
            await writer.drain()


def split(response: web.StreamResponse) -> None:
    """Send the body of a response in pieces if it is large."""
    if isinstance(response, web.Response) and isinstance(response.body, bytes) and len(response.body) > limits.PIECE:
        response.body = InPieces(response.body)


def release_body(response: web.StreamResponse) -> None:
    """Forget the body of a response that was sent: its connection keeps the response until the next one."""
    if isinstance(response, web.Response):
        response.body = None


@dataclass(eq=False, slots=True)
class Sending:
    """A large response that is being sent: its owner, its bytes, and what ends it."""

    owner: Hashable
    size: int
    abort: Callable[[], None]
    since: float = field(default_factory=time.monotonic)


class Unsent:
    """The bytes of large responses that clients have not read yet, at most `limits.MAXIMUM_UNSENT` over all owners.

    When there is no room for a response, the oldest response of the owner with the most bytes is ended, unless the new
    response would make its own owner the one with the most. Then it waits, together with a bounded number of bytes.
    """

    def __init__(self) -> None:
        self._sending: dict[Sending, None] = {}
        self._waiting = 0
        self._released = asyncio.Event()

    @property
    def size(self) -> int:
        """The bytes that are being sent."""
        return sum(sending.size for sending in self._sending)

    async def add(self, owner: Hashable, size: int, abort: Callable[[], None]) -> Sending:
        """Register a response before it is sent. `abort` ends it. Raises TooMuchUnread after some seconds without room."""
        sending = Sending(owner, min(size, limits.MAXIMUM_UNSENT), abort)
        if not self._make_room(sending):
            await self._wait(sending)
        sending.since = time.monotonic()
        self._sending[sending] = None
        return sending

    def discard(self, sending: Sending) -> None:
        """Forget a response that was sent or given up."""
        if self._sending.pop(sending, sending) is None:
            self._released.set()

    async def _wait(self, sending: Sending) -> None:
        if self._waiting + sending.size > limits.MAXIMUM_UNSENT // 2:
            raise TooMuchUnread
        self._waiting += sending.size
        try:
            async with asyncio.timeout(limits.ROOM_SECONDS):
                while not self._make_room(sending):
                    self._released.clear()
                    await self._released.wait()
        except TimeoutError:
            raise TooMuchUnread from None
        finally:
            self._waiting -= sending.size

    def _make_room(self, newcomer: Sending) -> bool:
        while self.size + newcomer.size > limits.MAXIMUM_UNSENT:
            owned = Counter[Hashable]()
            for sending in self._sending:
                owned[sending.owner] += sending.size
            owner, most = owned.most_common(1)[0]
            if owner == newcomer.owner or most <= owned[newcomer.owner] + newcomer.size:
                return False
            victim = next(sending for sending in self._sending if sending.owner == owner)
            self.discard(victim)
            victim.abort()
        return True


UNSENT = web.AppKey("unsent", Unsent)

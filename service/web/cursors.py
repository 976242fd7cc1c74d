"""Cursors of lists: opaque to consumers, bound to what they were made for, useless after any change."""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256

from service.model import Position

_LENGTH = 34
_MAC_BYTES = 16


class Cursors:
    """Replicas that share the secret take each other's cursors. `secret` is asked once, at the first use."""

    def __init__(self, secret: Callable[[], Awaitable[bytes]]) -> None:
        self._ask = secret
        self._secret: bytes | None = None

    async def seal(self, position: Position, *bound: str) -> str:
        """A cursor that only opens with the same `bound`: which list, whose, and with which filter."""
        if self._secret is None:
            self._secret = await self._ask()
        place = (b"-" if position.newer else b"+") + position.beyond.to_bytes(8, "big")
        message = b"\n".join([b"cursor", *(part.encode().hex().encode() for part in bound), place])
        mac = hmac.new(self._secret, message, sha256).digest()[:_MAC_BYTES]
        return urlsafe_b64encode(place + mac).rstrip(b"=").decode()

    async def open(self, cursor: str, *bound: str) -> Position | None:
        """The position in a cursor; None where it is not ours, was changed, or was made for something else."""
        try:
            place = urlsafe_b64decode(cursor.encode("ascii") + b"==")[:9]
        except ValueError:
            return None
        if len(cursor) != _LENGTH or len(place) != 9:
            return None
        position = Position(int.from_bytes(place[1:], "big"), newer=place[:1] == b"-")
        if position.beyond >= 2**63 or not hmac.compare_digest(await self.seal(position, *bound), cursor):
            return None
        return position

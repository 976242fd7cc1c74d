"""What was found out within the last second, so that a refusal that is known needs no database."""

import time
from collections import OrderedDict
from typing import Generic, TypeVar

_SECONDS = 1.0
"""How long an entry counts. A revocation, an activation and the shortest Retry-After take effect within this time."""
_MOST = 4096

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """A cache of at most 4,096 entries that are at most `seconds` old, by default one second."""

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = _SECONDS if seconds is None else seconds
        self._entries: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def put(self, key: Key, value: Value) -> None:
        """Remember a value from now on."""
        self._entries[key] = time.monotonic(), value
        self._entries.move_to_end(key)
        if len(self._entries) > _MOST:
            self._entries.popitem(last=False)

    def get(self, key: Key) -> Value | None:
        """The value, or None if none is known or it is too old."""
        at, value = self._entries.get(key, (0.0, None))
        return value if value is not None and time.monotonic() - at < self._seconds else None

    def discard(self, key: Key) -> None:
        """Forget a value."""
        self._entries.pop(key, None)

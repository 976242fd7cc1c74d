"""The state of `--since-last`: how far a Space was exported, and which contacts were in the last file."""

import base64
import json
import os
import re
import secrets
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from service.client.errors import ClientError
from service.client.target import explained, sync_directory

_VERSION = 1
_SORTED_AT_ONCE = 1_000_000
_INTEGER = re.compile(rb'\{"id":(-?[0-9]+)[,}]')


class StateError(ClientError):
    """The state cannot be used, or the export cannot be followed from it."""


class Ids:
    """The ids of a file. Integers take 8 bytes each, so that ten million fit into memory and into a state file."""

    def __init__(self) -> None:
        self._integers = array("q")
        self._texts: set[str] = set()
        self._sorted: list[array[int]] = []

    def add_line(self, line: bytes) -> None:
        """Add the id of a line."""
        if (found := _INTEGER.match(line)) is not None:
            self._integers.append(int(found[1]))
        else:
            self._texts.add(_id_of(line))

    def has_line(self, line: bytes) -> bool:
        """Whether the id of a line was among the loaded ids."""
        if (found := _INTEGER.match(line)) is None:
            return _id_of(line) in self._texts
        value = int(found[1])
        for part in self._sorted:
            place = bisect_left(part, value)
            if place < len(part) and part[place] == value:
                return True
        return False

    def dump(self) -> dict[str, Any]:
        """The ids as JSON values. The bytes of equal significance come together, so that neighbouring ids compress well."""
        raw = self._integers.tobytes()
        planes = b"".join(raw[place::8] for place in range(8))
        return {"integers": base64.b64encode(zlib.compress(planes, 1)).decode(), "texts": sorted(self._texts)}

    @classmethod
    def load(cls, values: dict[str, Any]) -> "Ids":
        """The ids in JSON values, ready for `has_line`. Raises ValueError, KeyError or TypeError."""
        ids = cls()
        ids._texts.update(values["texts"])
        planes = zlib.decompress(base64.b64decode(values["integers"]))
        count = len(planes) // 8
        raw = bytearray(count * 8)
        for place in range(8):
            raw[place::8] = planes[place * count : (place + 1) * count]
        ids._integers.frombytes(bytes(raw))
        ids._sorted = [array("q", sorted(part)) for part in _parts(ids._integers)]
        return ids


@dataclass(frozen=True, slots=True)
class Place:
    """How far a Space was exported.

    The next export begins at `until`, less an overlap. `export_id` and `created_at` are those of the last export, by which
    the Space is recognised; `timezone` is the Space's, in which the dates of a request are read.
    """

    export_id: int
    created_at: datetime
    timezone: str
    until: datetime
    ids: Ids


def load(path: Path) -> Place | None:
    """The state in a file, or None if the file does not exist. Raises StateError."""
    try:
        state = json.loads(path.read_bytes())
        if state["version"] != _VERSION:
            raise StateError(f"{path} was written by another version of this command.")
        return Place(
            export_id=int(state["export_id"]),
            created_at=datetime.fromisoformat(state["created_at"]),
            timezone=str(state["timezone"]),
            until=datetime.fromisoformat(state["until"]),
            ids=Ids.load(state["ids"]),
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, zlib.error):
        raise StateError(f"{path} is not a state file of --since-last.") from None


def save(path: Path, place: Place) -> None:
    """Replace the state in a file, in one step. Raises StateError."""
    state = {
        "version": _VERSION,
        "export_id": place.export_id,
        "created_at": _text(place.created_at),
        "timezone": place.timezone,
        "until": _text(place.until),
        "ids": place.ids.dump(),
    }
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(orjson.dumps(state, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StateError(f"The file was exported, but the state was not stored: {explained(error, path)}") from None


def _parts(integers: "array[int]") -> "Iterator[array[int]]":
    for start in range(0, len(integers), _SORTED_AT_ONCE):
        yield integers[start : start + _SORTED_AT_ONCE]


def _id_of(line: bytes) -> str:
    return str(orjson.loads(line)["id"])


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

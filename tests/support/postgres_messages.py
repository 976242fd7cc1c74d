"""The part of the Postgres protocol (version 3) that the proxy understands."""

import asyncio
import struct
from dataclasses import dataclass, field

_PROTOCOL = 196608
_CANCEL = 80877102
_ENCRYPTION = (80877103, 80877104)
"""Requests for TLS and GSSAPI; each gets a response of one byte before the startup message follows."""


@dataclass
class Startup:
    """The first message of a client: the parameters of a session, or the process whose statement it cancels."""

    parameters: dict[str, str] = field(default_factory=dict)
    cancels: int | None = None
    message: bytes = b""

    def encoded(self) -> bytes:
        """Return the message for the server, with the current parameters."""
        if self.cancels is not None:
            return self.message
        pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in self.parameters.items())
        return struct.pack("!ii", len(pairs) + 9, _PROTOCOL) + pairs + b"\0"


async def read_startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Startup:
    """Read the startup message and refuse requests for encryption. Raises IncompleteReadError at the end."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!ii", head)
        body = await reader.readexactly(length - 8)
        if code in _ENCRYPTION:
            writer.write(b"N")
            continue
        if code == _CANCEL:
            return Startup(cancels=struct.unpack("!i", body[:4])[0], message=head + body)
        assert code == _PROTOCOL, code
        words = body.rstrip(b"\0").decode().split("\0")
        return Startup(dict(zip(words[::2], words[1::2], strict=True)))


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one message with its type and length. Raises IncompleteReadError at the end."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


def kind(message: bytes) -> str:
    """Return the letter of the message type."""
    return chr(message[0])


def backend_pid(message: bytes) -> int:
    """Return the backend's process id from a BackendKeyData message."""
    return int.from_bytes(message[5:9])


class Statements:
    """Tracks which statement a client's message executes."""

    def __init__(self) -> None:
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}

    def executed(self, message: bytes) -> str | None:
        """Return the text of the statement that this message executes or continues to fetch from, if any."""
        match kind(message):
            case "P":  # parse: name, text
                name, text, _ = message[5:].split(b"\0", 2)
                self._prepared[name] = text.decode()
            case "B":  # bind: portal, name
                portal, name, _ = message[5:].split(b"\0", 2)
                self._portals[portal] = self._prepared.get(name, "")
            case "E":  # execute: portal, rows
                return self._portals.get(message[5:].split(b"\0", 1)[0])
            case "Q":  # a query without parameters
                return message[5:].rstrip(b"\0").decode()
        return None

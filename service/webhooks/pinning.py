"""Connections of webhooks: every address is checked after the name server's response and before the connection to it."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import AddrInfoType
from aiohttp.abc import AbstractResolver, ResolveResult

from service.errors import WebhookAddressRefused
from service.webhooks.allowed import AllowList

Lookup = Callable[[str, int], list[tuple[Any, ...]]]
"""Like `socket.getaddrinfo` for TCP: blocks, and raises OSError."""


def look_up(host: str, port: int) -> list[tuple[Any, ...]]:
    """The addresses of a host."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)


class PinnedResolver(AbstractResolver):
    """Resolves the host of one request, and refuses it if any of its addresses is not allowed.

    The connection goes to an address that this lookup returned, so a name server that changes its response afterwards
    gains nothing. `socket_for` checks again what is connected to. `refused` is the reason of a refusal.
    """

    def __init__(self, allow: AllowList, host: str, port: int, lookup: Lookup) -> None:
        self._allow = allow
        self._host = host
        self._port = port
        self._lookup = lookup
        self.refused: str | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of the host. Raises OSError."""
        found = await _in_a_thread(self._lookup, host, port)
        for *_, address in found:
            self._check(address[0])
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=each, proto=proto, flags=socket.AI_NUMERICHOST)
            for each, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is open."""

    def socket_for(self, info: AddrInfoType) -> socket.socket:
        """A socket for a connection to this address. Raises OSError if it is not allowed."""
        self._check(str(info[4][0]))
        return socket.socket(info[0], info[1], info[2])

    def _check(self, address: str) -> None:
        try:
            self._allow.check_address(self._host, self._port, address)
        except WebhookAddressRefused as error:
            self.refused = error.message
            raise OSError(error.message) from None


async def _in_a_thread(lookup: Lookup, host: str, port: int) -> list[tuple[Any, ...]]:
    """Run the lookup in a thread of its own: a name server that hangs must not occupy the threads of exports.

    The thread is a daemon, so that a lookup that hangs does not delay the end of the process.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()

    def finish(found: list[tuple[Any, ...]] | Exception) -> None:
        if result.done():
            return
        if isinstance(found, Exception):
            result.set_exception(found)
        else:
            result.set_result(found)

    def run() -> None:
        found: list[tuple[Any, ...]] | Exception
        try:
            found = lookup(host, port)
        except Exception as error:  # noqa: BLE001 - it is raised where the lookup is awaited
            found = error
        with suppress(RuntimeError):  # the event loop has ended meanwhile
            loop.call_soon_threadsafe(finish, found)

    threading.Thread(target=run, daemon=True, name="webhook lookup").start()
    return await result

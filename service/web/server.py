"""The HTTP server: its limits, its logging, and the socket it listens on."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from service.errors import CannotListen

MAXIMUM_BODY = 64 * 1024
"""Largest request body, in bytes (contract: 413)."""
_SHUTDOWN_SECONDS = 1.0
"""Longest that in-flight requests may take after everything else has stopped, in seconds."""

log = structlog.get_logger()


def _quotes_no_request(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))


_server_log = logging.getLogger("service.web.server")
# An error about bytes that are not HTTP quotes the bytes, which may contain a key. The client gets status 400.
_server_log.addFilter(_quotes_no_request)

SERVER_OPTIONS: Mapping[str, Any] = {
    # aiohttp's access log would print signed links. `service.web.middleware.finish_response` logs each request instead.
    "access_log": None,
    "logger": _server_log,
    # Compressed bodies are refused. aiohttp would decompress them before any check.
    "auto_decompress": False,
    # A client that disconnects must not interrupt a handler between its commit and the wake-up of the runner.
    "handler_cancellation": False,
}


@asynccontextmanager
async def listen(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Accept requests inside the block. Yields the address, such as `http://127.0.0.1:8080`; port 0 takes a free port.

    Raises CannotListen.
    """
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CannotListen(detail=f"{host}:{port}: {error.strerror}") from None
        bound_host, bound_port = runner.addresses[0][:2]
        address = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}"
        log.info("listening", address=address)
        yield address
    finally:
        await runner.cleanup()

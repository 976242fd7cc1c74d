"""What aiohttp's server is told about this application."""

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError


def _not_about_bytes_sent(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | RequestPayloadError))


_server_log = logging.getLogger("service.web.server")
# An error about bytes that are not HTTP quotes them, and a key may be among them. The sender gets its 400.
_server_log.addFilter(_not_about_bytes_sent)

SERVER_OPTIONS: Mapping[str, Any] = {
    # It would print signed links; `service.web.middleware.finish` writes a line of ours instead.
    "access_log": None,
    "logger": _server_log,
    # Compressed bodies are refused: they would be unpacked before anything has been checked.
    "auto_decompress": False,
    # A consumer that hangs up does not interrupt a handler between its commit and the wake-up of the runner.
    "handler_cancellation": False,
}

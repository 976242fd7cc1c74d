"""Structured logs on standard error: one line per event, with ids as fields and without personal data, keys or links.

A log that cannot be written loses lines and nothing else. A line that repeats is written a few times a minute.
"""

import json
import logging
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_REPEATS = 10
"""How often the same line is written within `_REPEAT_SECONDS`."""
_REPEAT_SECONDS = 60.0
_REMEMBERED_LINES = 256

_NEVER_REPEATS = "request"
"""The line of a request has an id of its own. So it is not compared, and hundreds of them do not push other lines out."""

_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
"""Tracebacks without local variables, because these contain keys, addresses and rows."""


def set_up(*, level: str, form: Literal["json", "console"]) -> None:
    """Log the service's events, and warnings of its libraries, to standard error."""
    stream = cast(TextIO, LossyStream(sys.stderr))
    added: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if form == "console"
        else [_TRACEBACKS, structlog.processors.JSONRenderer(to_json)]
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    repeats = Repeats()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, repeats.drop_event, *added, *last],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars, *added],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    handler.addFilter(repeats.keep_record)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(threshold, logging.WARNING))


def to_json(event: EventDict, **options: Any) -> str:
    """The event as JSON in ASCII, which every encoding of standard error can hold. `options` are those of `json.dumps`."""
    with suppress(orjson.JSONEncodeError):
        text = orjson.dumps(event, options.get("default"))
        if text.isascii():
            return text.decode()
    return json.dumps(event, **options)


class LossyStream:
    """A text stream that never raises: what cannot be written is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and forget."""
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if that is possible."""
        with suppress(OSError, ValueError):
            self._stream.flush()


class Repeats:
    """Drops a line after its tenth repeat within a minute. The next one that is written says how many were dropped."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def drop_event(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """A structlog processor, before the time is added. Raises DropEvent."""
        if event.get("event") == _NEVER_REPEATS:
            return event
        dropped = self._count(repr(sorted((name, str(value)) for name, value in event.items())))
        if dropped is None:
            raise structlog.DropEvent
        if dropped:
            event["dropped_repeats"] = dropped
        return event

    def keep_record(self, record: logging.LogRecord) -> bool:
        """A filter of the standard library's logging."""
        dropped = self._count(f"{record.name} {record.levelno} {record.getMessage()}")
        if dropped:
            record.msg, record.args = f"{record.getMessage()} ({dropped} repeats dropped)", None
        return dropped is not None

    def _count(self, line: str) -> int | None:
        """How many repeats were dropped before this line, or None if it must be dropped itself."""
        now = time.monotonic()
        since, count = self._seen.get(line, (now, 0))
        dropped = 0
        if now - since > _REPEAT_SECONDS:
            dropped, since, count = max(0, count - _REPEATS), now, 0
        self._seen[line] = since, count + 1
        self._seen.move_to_end(line)
        if len(self._seen) > _REMEMBERED_LINES:
            self._seen.popitem(last=False)
        return dropped if count < _REPEATS else None

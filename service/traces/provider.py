"""Exports spans over OTLP/HTTP, in a thread of its own, as the environment variables of OpenTelemetry say.

The event loop only puts a span into a queue. If the collector is slower, the queue gets full and spans are lost.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

_NAME = "contact-exports"
_SHUTDOWN_SECONDS = 3.0
"""Longest that the end of the process waits for the last spans to be sent."""

log = structlog.get_logger()


def _quotes_no_header(record: logging.LogRecord) -> bool:
    record.args = ("(not shown)",)
    return True


# A warning about a malformed OTEL_EXPORTER_OTLP_HEADERS quotes it, and it may contain a key.
logging.getLogger("opentelemetry.util.re").addFilter(_quotes_no_header)


@asynccontextmanager
async def exporting() -> AsyncIterator[Tracer]:
    """Export the spans of the tracer that is yielded. Raises ValueError for a variable that the library refuses."""
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    try:
        yield provider.get_tracer(_NAME, version(_NAME))
    finally:
        if not await _ended(provider.shutdown):
            log.warning("spans_not_sent", detail=f"the collector did not take the last spans in {_SHUTDOWN_SECONDS:g} s")


def _resource() -> Resource:
    given = Resource.create()
    own = {SERVICE_VERSION: version(_NAME)}
    if str(given.attributes[SERVICE_NAME]).startswith("unknown_service"):
        own[SERVICE_NAME] = _NAME
    return given.merge(Resource(own))


async def _ended(work: Callable[[], None]) -> bool:
    """Do blocking work in a thread that keeps the interpreter from nothing; False if it takes too long."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="traces", daemon=True).start()
    try:
        async with asyncio.timeout(_SHUTDOWN_SECONDS):
            await done.wait()
    except TimeoutError:
        return False
    return True

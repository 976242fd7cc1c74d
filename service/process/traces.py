"""Whether the process exports spans: decided by the environment variables of OpenTelemetry, and by no setting of our own."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from service import events
from service.exports.runner import AroundAttempt, in_logs_of
from service.metrics.store_calls import Observe
from service.settings import SettingsError
from service.web.tracing import ON_REQUEST, OnRequest

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = "OTEL_TRACES_EXPORTER"


@dataclass(frozen=True, slots=True)
class TraceHooks:
    """What calls the spans. By default nothing does, and an attempt has the trace id of its export in its log lines."""

    on_request: OnRequest | None = None
    around_attempt: AroundAttempt = in_logs_of
    on_store_call: tuple[Observe, ...] = ()

    def watched(self, app: web.Application) -> web.Application:
        """The same application, which calls `on_request` for its requests."""
        if self.on_request is not None:
            app[ON_REQUEST] = self.on_request
        return app


@asynccontextmanager
async def open_traces(environment: Mapping[str, str]) -> AsyncIterator[TraceHooks]:
    """Export spans inside the block, if the environment says so.

    Raises SettingsError if it cannot be followed, or if the extra is not installed.
    """
    variable = _switched_on_by(environment)
    if variable is None:
        yield TraceHooks()
        return
    _check(environment)
    try:
        from service.traces.provider import exporting  # noqa: PLC0415 - an extra, which is off by default
        from service.traces.spans import Traces  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise SettingsError(f"{variable} needs OpenTelemetry; install the extra `traces`, or unset it") from None
    async with AsyncExitStack() as stack:
        try:
            traces = Traces(await stack.enter_async_context(exporting()))
        except ValueError as error:
            raise SettingsError(f"A variable OTEL_… cannot be used: {error}") from None
        stack.callback(events.subscribe(traces))
        yield TraceHooks(traces.request, traces.attempt, (traces.store_call,))


def _switched_on_by(environment: Mapping[str, str]) -> str | None:
    """The variable that asks for spans, or None."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if exporters := environment.get(_EXPORTERS, "").strip():
        return None if exporters == "none" else _EXPORTERS
    return next((name for name in _ENDPOINTS if environment.get(name, "").strip()), None)


def _check(environment: Mapping[str, str]) -> None:
    """Raises SettingsError for what this service does not support, because spans would silently be lost."""
    if environment.get(_EXPORTERS, "").strip() not in ("", "otlp"):
        raise SettingsError(f"{_EXPORTERS} must be otlp or none")
    for name in _ENDPOINTS:
        if not environment.get(name, "http://").strip().startswith(("http://", "https://")):
            raise SettingsError(f"{name} must be an address such as http://localhost:4318")
    protocol = next((name for name in _PROTOCOLS if environment.get(name)), None)
    if protocol is not None and environment[protocol].strip() != "http/protobuf":
        raise SettingsError(f"{protocol} must be http/protobuf, the only protocol of this service")

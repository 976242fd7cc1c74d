"""Spans: what they say of an attempt, and an error of the library that fails nothing else."""

import logging
from typing import cast

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer
from opentelemetry.util.re import parse_env_headers

from service import events
from service.process.traces import open_traces
from service.settings import SettingsError
from service.trace_context import parse
from service.traces.spans import Traces
from tests.support.snapshots import claim_on
from tests.unit.test_events import every_event
from tests.unit.test_trace_context import VALID

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
CLAIM = claim_on()
OF_ATTEMPTS = {
    "export_completed": (False, None),
    "attempt_failed": (True, "storage_full"),
    "export_failed": (True, "storage_full"),
    "export_handed_back": (False, None),
    "attempt_cancelled": (False, None),
    "claim_lost": (True, "claim_lost"),
}
"""The events that end an attempt, with whether it failed and its error type."""


class Kept:
    """Spans that are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = Traces(provider.get_tracer("tests"))

    def ended(self) -> list[ReadableSpan]:
        """The spans that have ended."""
        return list(self._exporter.get_finished_spans())


@pytest.mark.parametrize("event", every_event(CLAIM), ids=events.log_name)
def test_the_span_of_an_attempt_ends_with_the_event_that_ends_the_attempt(event: events.Event) -> None:
    kept = Kept()
    with kept.traces.attempt(CLAIM):
        kept.traces(event)
        before = len(kept.ended())
    (span,) = kept.ended()
    name = events.log_name(event)
    assert before == (name in OF_ATTEMPTS)
    failed, error = OF_ATTEMPTS.get(name, (False, None))
    assert span.attributes is not None
    assert span.attributes.get("contact_exports.outcome") == (name if name in OF_ATTEMPTS else None)
    assert (span.status.status_code is StatusCode.ERROR, span.attributes.get("error.type")) == (failed, error)


def test_an_event_of_another_process_s_attempt_changes_nothing() -> None:
    kept = Kept()
    with kept.traces.attempt(CLAIM):
        kept.traces(events.ExportFailed(1, claim_on().claim_id, "worker_lost", None))
        assert kept.ended() == []


def test_a_request_of_an_invented_method_or_an_unknown_address_has_a_bounded_name() -> None:
    kept = Kept()
    kept.traces.request(None, "INVENTED", None, "").end(405)
    kept.traces.request(None, "GET", None, "").end(404)
    kept.traces.request("/a/{id}", "GET", None, "").end(503)
    assert [(span.name, span.status.status_code is StatusCode.ERROR) for span in kept.ended()] == [
        ("HTTP", False),
        ("GET", False),
        ("GET /a/{id}", True),
    ]


def test_the_sender_s_state_reaches_the_span_and_a_malformed_one_does_not() -> None:
    kept = Kept()
    for state in ("vendor=1", "=malformed="):
        kept.traces.request(None, "GET", parse(VALID), state).end(200)
    first, second = kept.ended()
    assert first.context is not None
    assert second.context is not None
    assert (dict(first.context.trace_state), dict(second.context.trace_state)) == ({"vendor": "1"}, {})


def test_a_store_call_that_is_not_sampled_by_the_sender_has_no_span() -> None:
    kept = Kept()
    span = kept.traces.request(None, "GET", parse(VALID[:-2] + "00"), "")
    with span.current():
        kept.traces.store_call("link", "ok", 0.1)
    span.end(200)
    assert kept.ended() == []
    assert span.context is not None
    assert str(span.context).endswith("-00")


def test_an_exception_is_not_recorded_because_its_message_may_contain_an_address() -> None:
    kept = Kept()
    with pytest.raises(ValueError, match="secret"), kept.traces.attempt(CLAIM):
        raise ValueError("secret")
    (span,) = kept.ended()
    assert "secret" not in span.to_json()


def test_an_error_of_the_library_fails_neither_a_request_nor_an_attempt_nor_a_store_call() -> None:
    class Broken:
        def start_span(self, *_: object, **__: object) -> None:
            raise RuntimeError("broken")

    traces = Traces(cast(Tracer, Broken()))
    span = traces.request("/a", "GET", parse(VALID), "")
    with span.current():
        traces.store_call("link", "ok", 0.1)
    span.end(200)
    assert span.context == parse(VALID)
    done = []
    with traces.attempt(CLAIM):
        done.append(CLAIM)
    assert done


async def hooks_of(environment: dict[str, str]) -> bool:
    """Whether spans are exported in this environment."""
    async with open_traces(environment) as hooks:
        return hooks.on_request is not None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ENDPOINT: " "},
        {"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"},
        {"OTEL_SERVICE_NAME": "a service"},
    ],
    ids=str,
)
async def test_spans_are_off_unless_the_environment_asks_for_them(environment: dict[str, str]) -> None:
    assert await hooks_of(environment) is False


@pytest.mark.parametrize("name", [ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"])
async def test_each_variable_switches_spans_on(name: str) -> None:
    assert await hooks_of({name: "otlp" if name == "OTEL_TRACES_EXPORTER" else "https://127.0.0.1:1"}) is True


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER must be otlp or none"),
        ({ENDPOINT: "collector:4317"}, f"{ENDPOINT} must be an address such as http://localhost:4318"),
        ({ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"),
    ],
    ids=str,
)
async def test_what_is_not_supported_is_refused_by_its_name(environment: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        await hooks_of(environment)


async def test_a_variable_that_the_library_refuses_is_an_invalid_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    with pytest.raises(SettingsError, match="max_export_batch_size"):
        await hooks_of({ENDPOINT: "http://127.0.0.1:1"})


async def test_malformed_headers_for_the_collector_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    await hooks_of({ENDPOINT: "http://127.0.0.1:1"})
    with caplog.at_level(logging.WARNING):
        assert parse_env_headers("a secret key") == {}
    assert "Header format invalid" in caplog.text
    assert "secret" not in caplog.text


def test_without_a_trace_an_attempt_has_a_root_span_whose_trace_id_is_logged() -> None:
    kept = Kept()
    with kept.traces.attempt(CLAIM):
        bound = structlog.contextvars.get_contextvars()
    (span,) = kept.ended()
    assert span.parent is None
    assert span.context is not None
    assert bound == {"trace_id": f"{span.context.trace_id:032x}"}

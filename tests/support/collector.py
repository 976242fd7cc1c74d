"""A collector of traces: a real OTLP/HTTP receiver, which decodes what it gets, and can refuse or hang."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.waiting import until_true

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
"""Settings of a program whose spans arrive soon."""


@dataclass(frozen=True)
class Seen:
    """A span as it arrived. Ids are hex; `parent` is empty for a root."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    failed: bool
    seconds: float
    attributes: dict[str, object]
    service: object


@dataclass
class Collector:
    """`status` is the response; a collector that hangs takes the request and never responds."""

    address: str = ""
    spans: list[Seen] = field(default_factory=list)
    requests: int = 0
    status: int = 200
    hangs: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """The environment of a program that sends its spans here."""
        return {**SOON, "OTEL_EXPORTER_OTLP_ENDPOINT": self.address}

    def named(self, name: str) -> list[Seen]:
        """The spans with this name that have arrived."""
        return [span for span in self.spans if span.name == name]

    async def until_named(self, name: str, count: int = 1) -> list[Seen]:
        """Wait for that many spans with this name."""
        await until_true(lambda: len(self.named(name)) >= count)
        return self.named(name)

    async def receive(self, request: web.Request) -> web.Response:
        """POST /v1/traces"""
        body = await request.read()
        self.requests += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.status == 200:
            compressed = request.headers.get("Content-Encoding") == "gzip"
            self._keep(ExportTraceServiceRequest.FromString(gzip.decompress(body) if compressed else body))
        content = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=content, content_type="application/x-protobuf")

    def _keep(self, received: ExportTraceServiceRequest) -> None:
        for resource in received.resource_spans:
            service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_seen(span, service) for span in scope.spans]


def _seen(span: Span, service: object) -> Seen:
    return Seen(
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        attributes=_attributes(span.attributes),
        service=service,
    )


def _attributes(pairs: "list[KeyValue]") -> dict[str, object]:
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that runs inside the block."""
    collector = Collector()
    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/traces", collector.receive)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    try:
        collector.address = str(server.make_url("")).rstrip("/")
        yield collector
    finally:
        await server.close()

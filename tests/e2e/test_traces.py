"""Traces: from the request of a client to the parts of the file, over processes, with a real collector."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.support import docs, stores
from tests.support.collector import SOON, Collector, Seen, collecting
from tests.support.contacts import Tenant, add_contacts
from tests.support.export_checks import ROWS
from tests.support.program import Program, environment, free_port, running
from tests.support.waiting import until_ended, until_logged
from tests.support.web import EXPORTS

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{SPAN}-01"
YEAR = {"start_date": "2024-01-01 00:00:00", "end_date": "2024-12-31 00:00:00"}
STATUS = f"GET {EXPORTS}/{{export_id}}"
NOT_INSTALLED = "needs OpenTelemetry; install the extra `traces`, or unset it"
BLOCKED = "tests.support.without_opentelemetry"


@pytest.fixture
async def settings(
    database_url: str, space: Tenant, connection: asyncpg.Connection, tmp_path: Path
) -> AsyncIterator[dict[str, str]]:
    """Settings of a program with a Space of several parts."""
    await add_contacts(connection, space.space_id, ROWS)
    async with stores.directory_store(tmp_path / "files") as store:
        yield {"DATABASE_URL": database_url, "ALLOW_FAILPOINTS": "1", "PART_SIZE": "16KiB", **store.settings}


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that works."""
    async with collecting() as running:
        yield running


async def create(program: Program, space: Tenant, **headers: str) -> int:
    """Create an export of a year."""
    sent = {**space.headers, **headers}
    async with aiohttp.request("POST", f"{program.address}{EXPORTS}", headers=sent, json=YEAR) as response:
        return int((await response.json())["export_id"])


async def get(program: Program, path: str, space: Tenant) -> int:
    """Get a path; return the status."""
    async with aiohttp.request("GET", f"{program.address}{path}", headers=space.headers) as response:
        return response.status


async def test_one_trace_leads_from_the_client_to_the_parts_and_over_two_processes(
    settings: dict[str, str], space: Tenant, connection: asyncpg.Connection, collector: Collector
) -> None:
    line = docs.block("sh", "docs/operating.md", "OTEL_EXPORTER_OTLP_ENDPOINT").strip().removeprefix("export ")
    name, _, value = line.replace("http://localhost:4318", collector.address).partition("=")
    settings |= {**SOON, name: value}
    workers = running({**settings, "OTEL_SERVICE_NAME": "worker"})
    async with running({**settings, "EXPORT_SLOTS": "0"}) as front, workers as back:
        export_id = await create(front, space, traceparent=SENT)
        assert (await until_ended(connection, export_id))["status"] == "completed"
        assert await get(front, f"{EXPORTS}/{export_id}", space) == 200
        (request,) = await collector.until_named(f"POST {EXPORTS}")
        (attempt,) = await collector.until_named("export attempt")
        (status,) = await collector.until_named(STATUS)
        (link,) = await collector.until_named("store link")
        await until_logged(back, "export_completed")

    assert (request.trace_id, request.parent, request.kind, request.service) == (TRACE, SPAN, "server", "contact-exports")
    assert request.attributes == {"http.request.method": "POST", "http.route": EXPORTS, "http.response.status_code": 202}
    assert (attempt.trace_id, attempt.parent, attempt.kind) == (TRACE, request.span_id, "consumer")
    assert attempt.service == "worker"
    assert attempt.attributes["contact_exports.outcome"] == "export_completed"
    assert attempt.attributes["contact_exports.rows"] == ROWS
    assert (status.parent, link.parent, link.trace_id) == ("", status.span_id, status.trace_id)
    check_store_calls(collector, attempt)
    check_lines(front, back, status)
    stored = await connection.fetchval("SELECT traceparent FROM export_jobs")
    assert stored == f"00-{TRACE}-{request.span_id}-01"


def check_store_calls(collector: Collector, attempt: Seen) -> None:
    """The parts are all there, below the attempt; nothing has a span for each row, and health checks have none."""
    parts = [part.attributes for part in collector.named("store put_part")]
    numbers = sorted(int(str(part["contact_exports.part"])) for part in parts)
    assert numbers == [*range(1, len(parts) + 1)]
    assert len(parts) > 1
    assert sum(int(str(part["contact_exports.bytes"])) for part in parts) == attempt.attributes["contact_exports.bytes"]
    calls = [call for call in collector.spans if call.name.startswith("store ") and call.trace_id == TRACE]
    assert {call.name for call in calls} == {"store begin_upload", "store put_part", "store complete_upload"}
    assert {(call.parent, call.kind) for call in calls} == {(attempt.span_id, "client")}
    assert max(call.seconds for call in calls) < attempt.seconds
    assert len(collector.spans) < ROWS / 10
    assert not [span.name for span in collector.spans if span.name.endswith(("/healthz", "/readyz", "probe", "marker"))]


def check_lines(front: Program, back: Program, status: Seen) -> None:
    """Log lines have the trace id of their request, or of the export's."""
    for event, program in (("export_queued", front), ("export_claimed", back), ("export_completed", back)):
        assert [line["trace_id"] for line in program.events(event)] == [TRACE], event
    ids = [line["trace_id"] for line in front.events("request") if f"{line['method']} {line['route']}" == STATUS]
    assert ids == [status.trace_id]


async def test_each_attempt_has_a_span_of_its_own_and_the_same_trace_id_in_its_log_lines(
    settings: dict[str, str], space: Tenant, connection: asyncpg.Connection, collector: Collector
) -> None:
    settings |= collector.settings | {"FAILPOINTS": "part_sending:raise#1"}
    async with running(settings) as program:
        export_id = await create(program, space)
        assert (await until_ended(connection, export_id))["status"] == "completed"
        first, second = await collector.until_named("export attempt", 2)
        (request,) = await collector.until_named(f"POST {EXPORTS}")
        await until_logged(program, "export_completed")
    (failed,) = program.events("attempt_failed")
    assert first.parent == second.parent == request.span_id
    assert (first.failed, first.attributes["error.type"]) == (True, failed["error_code"])
    assert (second.failed, second.attributes["contact_exports.attempt"]) == (False, 2)
    lines = [line for line in program.log if line.get("export_id") == export_id]
    expected = {"export_queued", "export_claimed", "attempt_failed", "export_completed"}
    assert {line["event"] for line in lines} >= expected
    assert {line.get("trace_id") for line in lines if line["event"] != "attempt_cleaned"} == {request.trace_id}


async def test_without_the_extra_the_trace_id_is_in_the_log_lines_of_two_processes(
    settings: dict[str, str], space: Tenant, connection: asyncpg.Connection
) -> None:
    front = running({**settings, "EXPORT_SLOTS": "0"}, module=BLOCKED)
    async with front as api, running({**settings, "ADMIN_PORT": free_port()}, module=BLOCKED) as worker:
        export_id = await create(api, space, traceparent=SENT)
        await until_ended(connection, export_id)
        await until_logged(worker, "export_completed", trace_id=TRACE)
        async with aiohttp.request("GET", f"{worker.admin}/exports/{export_id}") as response:
            page = await response.text()
    assert [line["trace_id"] for line in worker.events("export_claimed")] == [TRACE]
    assert await connection.fetchval("SELECT traceparent FROM export_jobs") == SENT
    assert f"<dt>Trace id</dt><dd><code>{TRACE}</code>" in page
    shown = contact_exports("exports", "show", str(export_id), **settings)
    assert f"trace_id{' ' * 15}{TRACE}" in shown.stdout


async def test_the_line_about_the_end_of_an_export_that_fails_has_its_trace_id(
    settings: dict[str, str], space: Tenant
) -> None:
    settings |= {"FAILPOINTS": "part_sending:raise", "MAX_ATTEMPTS": "1"}
    async with running(settings) as program:
        await create(program, space, traceparent=SENT)
        await until_logged(program, "export_failed", trace_id=TRACE)


def contact_exports(*arguments: str, module: str = "service", **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command."""
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER"])
async def test_spans_without_the_extra_are_exit_code_2_and_one_sentence(name: str, settings: dict[str, str]) -> None:
    value = "http://127.0.0.1:4318" if name.endswith("ENDPOINT") else "otlp"
    ended = await asyncio.to_thread(contact_exports, "serve", module=BLOCKED, **settings, **{name: value})
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr == f"Invalid settings:\n{name} {NOT_INSTALLED}\n"


def test_a_process_without_spans_does_not_import_opentelemetry() -> None:
    code = "import service.process.run, service.commands.running, sys; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "service.process.traces" in ended.stdout.split()
    assert not [name for name in ended.stdout.split() if name.startswith(("opentelemetry", "service.traces"))]

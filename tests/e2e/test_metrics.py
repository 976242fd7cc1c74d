"""The operator's port of the real program: metrics and health checks."""

from pathlib import Path

import aiohttp
import asyncpg

from service.client import ExportClient
from tests.support import stores
from tests.support.contacts import Tenant, add_contacts, whole_range
from tests.support.metrics import families, scrape, value
from tests.support.program import free_port, running, started
from tests.support.promql import expressions
from tests.support.waiting import until

_OF_PROCESS = {"version", "python", "pool", "phase", "le"}
_LABELS = _OF_PROCESS | {
    "route",
    "method",
    "status",
    "bucket",
    "error_code",
    "outcome",
    "result",
    "kind",
    "operation",
    "state",
}


async def test_an_export_and_its_requests_appear_in_the_metrics(
    database_url: str, space: Tenant, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 20)
    await connection.execute("UPDATE spaces SET name = 'a name that is secret'")
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {
            "DATABASE_URL": database_url,
            **store.settings,
            "ADMIN_PORT": free_port(),
            "RATE_LIMIT_CREATE": "1/minute",
        }
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            await client.wait(await client.create(whole_range()))
            async with aiohttp.ClientSession(headers=space.headers) as session:
                async with session.post(f"{program.address}/public-api/v1/contacts/exports") as refused:
                    assert refused.status == 429
                for path in ("healthz", "readyz"):
                    async with session.get(f"{program.admin}/{path}") as response:
                        assert response.status == 200
                async with session.get(f"{program.address}/metrics") as outside:
                    assert outside.status == 404

            async def lag_is_measured() -> bool:
                return value(await scrape(program.admin), "event_loop_lag_seconds_count") > 0

            await until(lag_is_measured)
            text = await scrape(program.admin)
    route = "/public-api/v1/contacts/exports"
    assert value(text, "http_requests_total", route=route, method="POST", status="202") == 1
    assert value(text, "http_requests_total", route=route, method="POST", status="429") == 1
    assert value(text, "http_request_duration_seconds_count", route=route, method="POST") == 2
    assert value(text, "rate_limit_refusals_total", bucket="create-export") == 1
    assert value(text, "exports_created_total") == value(text, "attempts_ended_total", outcome="completed") == 1
    assert value(text, "exports_ended_total", status="completed", error_code="") == 1
    assert value(text, "export_rows_sum") == 20
    assert value(text, "exports", status="completed") == 1
    assert value(text, "store_call_duration_seconds_count", operation="put_part", result="ok") == 1
    assert value(text, "pool_wait_seconds_count", pool="main") > 0
    assert value(text, "database_up") == 1
    assert value(text, "export_slots") == 4
    assert "secret" not in text
    assert space.key not in text
    labels = {label for family in families(text) for sample in family.samples for label in sample.labels}
    assert labels <= _LABELS
    check_expressions(text)


def check_expressions(text: str) -> None:
    """Every expression of the dashboard and of the alerts names metrics and labels of this scrape."""
    labels_of: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in families(text):
        for sample in family.samples:
            labels_of.setdefault(sample.name, {"job", "instance"}).update(sample.labels)
    for expression in expressions():
        assert expression.metrics
        for name in expression.metrics:
            assert name in labels_of, f"{expression.place}: there is no metric {name}"
            assert expression.labels <= labels_of[name], f"{expression.place}: {expression.labels - labels_of[name]}"


async def test_a_taken_admin_port_ends_the_program_with_one_sentence(database_url: str, tmp_path: Path) -> None:
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings, "ADMIN_PORT": free_port()}
        async with running(settings), started(settings) as second:
            assert await second.ended() == 2
    (text,) = [entry["text"] for entry in second.events("text")]
    assert f"cannot listen on its address. (ADMIN_HOST=127.0.0.1 ADMIN_PORT={settings['ADMIN_PORT']}: " in text
    assert "address already in use" in text

"""The service while its database, its store or its port is unavailable, and its recovery."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.failures import StorageRefused
from service.postgres.migrate import migrate
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, tenant
from tests.support.export_checks import blocked_reads
from tests.support.jobs import connect
from tests.support.program import environment, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_logged, until_row

BODY: dict[str, Any] = WHOLE_RANGE | {"include_comet_tokens": 1}


async def test_a_process_waits_for_a_database_that_is_down_at_startup(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    async with started({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        await program.listening()
        status, body, retry_after = await call(program, "POST", EXPORTS, **BODY)
        assert (status, retry_after) == (503, "5")
        assert "message" in body
        assert (await call(program, "GET", "/healthz"))[0] == 200
        assert (await call(program, "GET", "/readyz"))[0] == 503
        own_postgres.start()
        await program.ready()
        space = await tenant(own_postgres.dsn())
        async with connect(own_postgres.dsn()) as connection:
            row = await until_ended(connection, await create(program, space))
        assert row["status"] == "completed"
        assert await program.end() == 0


async def test_requests_get_503_while_the_database_is_down_and_exports_work_afterwards(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        space = await tenant(own_postgres.dsn())
        first = await create(program, space)
        async with connect(own_postgres.dsn()) as connection:
            assert (await until_ended(connection, first))["status"] == "completed"
        own_postgres.stop("immediate")
        for method, path in (("POST", EXPORTS), ("GET", f"{EXPORTS}/{first}")):
            status, body, retry_after = await call(program, method, path, space, **(BODY if method == "POST" else {}))
            assert (status, retry_after, list(body)) == (503, "5", ["message", "request_id"])
        own_postgres.start()
        await program.ready()
        assert (await call(program, "GET", f"{EXPORTS}/{first}", space))[1]["status"] == "completed"
        async with connect(own_postgres.dsn()) as connection:
            assert (await until_ended(connection, await create(program, space)))["status"] == "completed"
        assert await program.end() == 0


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_an_export_survives_a_database_restart(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest, mode: Any
) -> None:
    own_postgres.start()
    async with running({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        space = await tenant(own_postgres.dsn())
        async with connect(own_postgres.dsn()) as connection:
            await add_contacts(connection, space.space_id, 1000)
        async with blocked_reads(own_postgres.dsn()) as blocker:
            export_id = await create(program, space)
            await until_row(blocker, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            own_postgres.stop(mode)
        own_postgres.start()
        async with connect(own_postgres.dsn()) as connection:
            row = await until_ended(connection, export_id)
        assert (row["status"], row["row_count"]) == ("completed", 1000)
        assert await files.objects() == [row["object_name"]]
        assert await program.end() == 0


async def test_exports_wait_for_a_separate_contacts_database_while_the_api_responds(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    own_postgres: EmbeddedPostgres,
    files: StoreUnderTest,
) -> None:
    settings = {
        "DATABASE_URL": database_url,
        "CONTACTS_DATABASE_URL": own_postgres.dsn(),
        "MAX_ATTEMPTS": "50",
        **files.settings,
    }
    own_postgres.start()
    await migrate(own_postgres.dsn())
    async with connect(own_postgres.dsn()) as contacts:
        await add_contacts(contacts, space.space_id, 7)
    own_postgres.stop()
    async with running(settings) as program:
        export_id = await create(program, space)
        row = await until_row(
            connection,
            "SELECT * FROM export_overview WHERE export_id = $1 AND attempts > 0 AND status = 'queued'",
            export_id,
        )
        assert row["error_code"] == "source_unavailable"
        assert row["summary"].startswith("waiting for a retry")
        assert (await call(program, "GET", f"{EXPORTS}/{export_id}", space))[1]["status"] in ("queued", "processing")
        own_postgres.start()
        row = await until_ended(connection, export_id)
        assert (row["status"], row["row_count"], row["error_code"]) == ("completed", 7, None)


async def test_startup_fails_with_every_mismatch_of_the_contacts_tables(
    database_url: str, connection: asyncpg.Connection, files: StoreUnderTest
) -> None:
    await connection.execute(
        "DROP TABLE comet_tokens; ALTER TABLE contacts DROP COLUMN phone, ALTER created_at TYPE timestamp"
    )
    async with started({"DATABASE_URL": database_url, **files.settings}) as program:
        assert await program.ended() == 2
    text = "".join(entry["text"] for entry in program.events("text"))
    assert "comet_tokens is missing" in text
    assert "contacts.phone is missing" in text
    assert "contacts.created_at is timestamp without time zone" in text
    assert "Traceback" not in text


async def test_exports_wait_for_a_missing_directory_and_use_it_once_it_exists(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    missing = tmp_path / "mounted later"
    async with started({"DATABASE_URL": database_url, "STORAGE_URL": missing.as_uri()}) as program:
        await program.listening()
        await until_logged(program, "store_not_usable")
        assert str(missing) in program.events("store_not_usable")[0]["detail"]
        status, body, _ = await call(program, "GET", "/readyz")
        assert (status, body["checks"]["database"]) == (503, "ok")
        export_id = await create(program, space)
        row = await until_row(connection, "SELECT * FROM export_jobs WHERE error_code IS NOT NULL AND status = 'queued'")
        assert (row["id"], row["error_code"]) == (export_id, "storage_refused")
        assert str(missing) in row["error_detail"]
        await (
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service",
                "storage",
                "init",
                env=environment({"DATABASE_URL": database_url, "STORAGE_URL": missing.as_uri()}),
            )
        ).wait()
        await connection.execute("UPDATE export_jobs SET run_after = now()")
        assert (await until_ended(connection, export_id))["status"] == "completed"


async def test_an_export_fails_with_a_message_when_the_store_refuses_its_last_attempt(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": database_url, "STORAGE_URL": (tmp_path / "missing").as_uri(), "MAX_ATTEMPTS": "1"}
    async with started(settings) as program:
        await program.listening()
        await until_logged(program, "started")
        export_id = await create(program, space)
        await until_ended(connection, export_id)
        _, body, _ = await call(program, "GET", f"{EXPORTS}/{export_id}", space)
    assert body["status"] == "failed"
    assert body["error_code"] == "storage_refused"
    assert body["message"] == StorageRefused.message
    assert str(tmp_path) not in str(body)


async def test_startup_fails_with_a_message_when_the_port_is_taken(database_url: str, files: StoreUnderTest) -> None:
    settings = {"DATABASE_URL": database_url, **files.settings}
    async with running(settings) as first, started(settings | {"PORT": first.address.rpartition(":")[2]}) as second:
        assert await second.ended() == 2
    text = "".join(entry["text"] for entry in second.events("text"))
    assert "cannot listen" in text
    assert "Traceback" not in text


async def test_a_process_that_waits_for_its_database_stops_when_told_to(
    own_postgres: EmbeddedPostgres, files: StoreUnderTest
) -> None:
    async with started({"DATABASE_URL": own_postgres.dsn(), **files.settings}) as program:
        await program.listening()
        program.send(signal.SIGTERM)
        assert await program.ended() == 0

"""Consumers that disconnect, retry, cancel, or come late."""

import asyncio
import json
import random
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncpg
from yarl import URL

from service.client import Export, ExportClient, ExportStatus
from tests.support.calls import EXPORTS, cancel, create, create_once, create_with_tokens
from tests.support.contacts import (
    WHOLE_RANGE,
    Tenant,
    add_contacts,
    add_wide_contacts,
    expected_lines,
    lines_of,
    whole_range,
)
from tests.support.export_checks import blocked_reads
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_cleaned, until_ended, until_row, until_true


async def ended(program: Program, space: Tenant, export_id: int) -> Export:
    """Wait until the export has ended and return it."""
    async with ExportClient(program.address, space.key) as client:
        return await client.wait(export_id)


async def send_and_disconnect(program: Program, request: bytes, *, seconds: float) -> None:
    """Send a request and reset the connection after `seconds`, without reading the response."""
    address = urlsplit(program.address)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(seconds)
    writer.transport.abort()


async def test_exports_of_consumers_that_disconnect_complete_and_nothing_is_left_open(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    rng = random.Random(82)
    body = json.dumps(WHOLE_RANGE).encode()
    head = f"Host: x\r\nAuthorization: Bearer {space.key}\r\nContent-Length: "
    async with running({"DATABASE_URL": database_url, "SPACE_SLOTS": "4", **files.settings}) as program:
        first = await create(program, space)
        await ended(program, space, first)
        open_files = _open_files(program)
        post = f"POST {EXPORTS} HTTP/1.1\r\n{head}{len(body)}\r\n\r\n".encode() + body
        cut = post[: -len(body) // 2]
        get = f"GET {EXPORTS}/{first} HTTP/1.1\r\n{head}0\r\n\r\n".encode()
        requests = [post] * 20 + [cut] * 5 + [get] * 20
        await asyncio.gather(*(send_and_disconnect(program, request, seconds=rng.uniform(0, 0.4)) for request in requests))

        async def each_has_its_file() -> bool:
            rows = await connection.fetch("SELECT status, object_name FROM export_jobs WHERE id > $1", first)
            assert len(rows) <= 20
            if not rows or {row["status"] for row in rows} != {"completed"}:
                return False
            return len(await files.objects()) == 1 + len(rows) and {row["object_name"] for row in rows} < set(
                await files.objects()
            )

        await until(each_has_its_file)
        await until_true(lambda: _open_files(program) <= open_files + 8)  # connections of the pool
        assert not [entry for entry in program.log if entry.get("level") == "error" or entry["event"] == "text"]
        assert await program.end() == 0


async def test_one_create_request_sent_to_three_processes_under_one_key_creates_one_export(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **files.settings}
    async with running(settings) as one, running(settings) as two, running(settings) as three:
        calls = [create_once(program.address, space, "a name") for program in (one, two, three) * 17]
        export_ids = set(await asyncio.gather(*calls))
        assert len(export_ids) == 1
        row = await until_ended(connection, export_ids.pop())
    assert await files.objects() == [row["object_name"]]
    assert await connection.fetchval("SELECT count(*) FROM export_jobs") == 1


async def test_exports_cancelled_at_any_moment_end_in_one_state_and_leave_no_file(
    database_url: str, connection: asyncpg.Connection, space: Tenant, files: StoreUnderTest
) -> None:
    rng = random.Random(84)
    await add_contacts(connection, space.space_id, 500)
    limits = {"SPACE_SLOTS": "8", "EXPORT_SLOTS": "8", "RATE_LIMIT_OTHER": "1000/minute"}
    async with running({"DATABASE_URL": database_url, **files.settings, **limits}) as program:

        async def create_and_cancel() -> tuple[int, str]:
            export_id = await create(program, space)
            await asyncio.sleep(rng.uniform(0, 0.3))
            return export_id, (await cancel(program.address, space, export_id)).status

        statuses = dict(await asyncio.gather(*(create_and_cancel() for _ in range(40))))
        await until_row(connection, "SELECT 1 FROM export_attempts HAVING bool_and(ended_at IS NOT NULL)")
        await until_cleaned(connection)
        rows = await connection.fetch("SELECT id, status, object_name FROM export_jobs")
        assert {row["id"]: row["status"] for row in rows} == statuses
        assert set(statuses.values()) <= {"cancelled", "expired"}
        completed = await connection.fetch("SELECT job_id FROM export_attempts WHERE outcome = 'completed'")
        assert sorted(row["job_id"] for row in completed) == sorted(row["id"] for row in rows if row["object_name"])

        async def empty() -> bool:
            return await files.objects() == [] and await files.uploads() == []

        await until(empty)


async def test_an_export_recreated_after_its_cancellation_runs_at_once_and_is_the_only_one_with_a_file(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 500)
    settings = {"DATABASE_URL": database_url, "SPACE_SLOTS": "1", **store.settings}
    async with running(settings) as program:
        async with blocked_reads(database_url):
            first = await create_with_tokens(program, space)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            cancelled = await cancel(program.address, space, first)
            second = await create_with_tokens(program, space)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE job_id = $1 AND upload_id IS NOT NULL", second)
        async with ExportClient(program.address, space.key) as client:
            file = await client.download(await client.wait(second), tmp_path / "file")
        assert lines_of(file.path) == await expected_lines(connection, space.space_id, tokens=True)
        assert cancelled.status is (await ended(program, space, first)).status is ExportStatus.CANCELLED
        published = await connection.fetchval("SELECT object_name FROM export_jobs WHERE id = $1", second)

        async def only_its_file_is_left() -> bool:
            return await store.uploads() == [] and await store.objects() == [published]

        await until_cleaned(connection)
        await until(only_its_file_is_left)


async def test_a_download_continues_while_its_file_expires(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    await add_wide_contacts(connection, space.space_id, 12)
    settings = {"DATABASE_URL": database_url, **store.settings}
    connector = aiohttp.TCPConnector(socket_factory=_small_socket)
    async with running(settings) as program, aiohttp.ClientSession(connector=connector, read_bufsize=4096) as session:
        export = await ended(program, space, await create(program, space))
        assert export.file is not None
        assert export.download_url is not None
        async with session.get(URL(export.download_url, encoded=True), auto_decompress=False) as download:
            assert download.status == 200
            received = len(await download.content.readexactly(1000))
            await connection.execute("UPDATE export_jobs SET file_expires_at = now()")
            await until_row(connection, "SELECT 1 FROM export_jobs WHERE status = 'expired'")
            stays = await connection.fetchval("SELECT file_delete_after - now() FROM export_jobs")
            assert stays > timedelta(minutes=55), "a download that started with the last link needs time to finish"
            received += len(await download.content.read())
        assert received == export.file.size > 8_000_000
        await connection.execute("UPDATE export_jobs SET file_delete_after = now()")
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        async with session.get(URL(export.download_url, encoded=True)) as late:
            assert late.status in (403, 404)
        assert (await ended(program, space, export.export_id)).status is ExportStatus.EXPIRED
        assert await store.objects() == []


async def test_a_file_missing_in_the_store_is_a_dead_link_until_it_expires_and_affects_nothing_else(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        lost = await create(program, space)
        export = await ended(program, space, lost)
        (name,) = await store.objects()
        await store.store.delete(name)
        assert export.download_url is not None
        async with aiohttp.request("GET", URL(export.download_url, encoded=True)) as response:
            assert response.status == 404
        export = await ended(program, space, lost)
        assert export.status is ExportStatus.COMPLETED
        assert export.download_url is not None
        assert (await cancel(program.address, space, lost)).status is ExportStatus.EXPIRED
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
        async with ExportClient(program.address, space.key) as client:
            await client.download(await client.wait(await client.create(whole_range())), tmp_path / "file")


def _small_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket with a small receive buffer, so that most of the response still waits at the server."""
    family, kind, protocol, _, _ = address
    small = socket.socket(family, kind, protocol)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return small


def _open_files(program: Program) -> int:
    return len(list(Path(f"/proc/{program.pid}/fd").iterdir()))

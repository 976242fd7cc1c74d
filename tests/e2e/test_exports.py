"""An export from the create request to the bytes of the file, by the program with both stores."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from yarl import URL

from service.client import Download, Export, ExportClient, Extra
from tests.support.calls import EXPORTS, call
from tests.support.contacts import Tenant, add_contacts, expected_lines, lines_of, whole_range
from tests.support.id_types import as_type, change_ids
from tests.support.program import running
from tests.support.stores import StoreUnderTest


async def export(address: str, space: Tenant, path: Path, *extras: Extra) -> tuple[Export, Download]:
    """Create, await and download an export; the client checks size, checksum and row count."""
    async with ExportClient(address, space.key) as client:
        export = await client.wait(await client.create(whole_range(*extras)))
        return export, await client.download(export, path)


@pytest.mark.parametrize(
    "extras",
    [(), (Extra.COMET_TOKENS,), (Extra.EMAILS,), (Extra.COMET_TOKENS, Extra.EMAILS)],
    ids="+".join,
)
async def test_a_file_equals_the_result_of_a_plain_query(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    store: StoreUnderTest,
    tmp_path: Path,
    extras: tuple[Extra, ...],
) -> None:
    await add_contacts(connection, space.space_id, 1501)
    await connection.execute("SELECT merge_contacts(5, 6), merge_contacts(7, 5), merge_contacts(20, 30)")
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        ended, file = await export(program.address, space, tmp_path / "file", *extras)
    lines = lines_of(file.path)
    assert lines == await expected_lines(
        connection, space.space_id, tokens=Extra.COMET_TOKENS in extras, emails=Extra.EMAILS in extras
    )
    assert ended.file is not None
    assert len(lines) == ended.file.row_count == 1498
    assert list(lines[0]) == ["id", "email", "name", "phone", "location", *extras]


AWKWARD = [
    'quote " backslash \\ slash /',
    '},{"id":1,"email":',
    "tab\tnewline\nreturn\rformfeed\fbackspace\b",
    "control \x01\x02\x1f\x7f\x80\x9f",
    "line\u2028and\u2029paragraph\x85separators",
    "\U0001f9d1\U0001f3fd\u200d\U0001f680 \U0001f1ea\U0001f1fa",
    "\u0645\u0631\u062d\u0628\u0627 \u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "\ufeffmark \ufffd \uffff \U0010ffff",
    "'; DROP TABLE contacts; --",
    " ",
    "",
]


async def test_every_character_that_postgres_can_store_survives_in_a_parseable_line(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    for text in AWKWARD:
        contact = await connection.fetchval(
            "INSERT INTO contacts (space_id, created_at, email, name, phone, location)"
            " VALUES ($1, '2024-05-05', $2, $2, $2, $2) RETURNING id",
            space.space_id,
            text,
        )
        await connection.execute(
            "INSERT INTO contact_emails (contact_id, email) VALUES ($1, $2), ($1, $2 || 'x')", contact, text
        )
        await connection.execute("INSERT INTO comet_tokens (contact_id, token) VALUES ($1, $2)", contact, text)
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        _, file = await export(program.address, space, tmp_path / "file", Extra.COMET_TOKENS, Extra.EMAILS)
    lines = lines_of(file.path)
    assert [line["name"] for line in lines] == AWKWARD
    assert lines == await expected_lines(connection, space.space_id, tokens=True, emails=True)


async def test_a_space_without_contacts_gets_a_valid_gzip_file_of_zero_bytes(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        _, file = await export(program.address, space, tmp_path / "file")
    assert lines_of(file.path) == []


async def test_a_completed_status_has_the_fields_of_the_contract_in_order(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 10)
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        ended, file = await export(program.address, space, tmp_path / "file")
        _, status, _ = await call(program, "GET", f"{EXPORTS}/{ended.export_id}", space)
        async with aiohttp.request("GET", URL(status["download_url"], encoded=True), auto_decompress=False) as response:
            headers = response.headers
    assert list(status) == [
        *("export_id", "status", "created_at", "completed_at", "download_url", "expires_at"),
        *("window", "row_count", "file_size", "sha256", "snapshot_at", "complete_until", "file_expires_at"),
    ]
    assert status["window"] == {"from": "2023-12-31T23:00:00Z", "to": "2024-12-31T23:00:00Z", "timezone": "Europe/Berlin"}
    lifetime = datetime.fromisoformat(status["expires_at"]) - datetime.now(UTC)
    assert 600 < lifetime.total_seconds() <= 900
    assert file.sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert headers["Content-Type"] == "application/gzip"
    assert headers["Content-Disposition"] == f'attachment; filename="contacts-{status["export_id"]}.ndjson.gz"'
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize("store", ["s3"], indirect=True)
async def test_an_object_has_a_uuid_in_its_name_and_export_claim_and_window_as_metadata(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        ended, _ = await export(program.address, space, tmp_path / "file")
        assert ended.download_url is not None
        async with aiohttp.request("GET", URL(ended.download_url, encoded=True)) as response:
            headers = response.headers
    claim_id = await connection.fetchval("SELECT claim_id FROM export_attempts")
    assert await store.objects() == [f"{space.space_id}/{ended.export_id}/{claim_id}.ndjson.gz"]
    assert {name: headers[f"x-amz-meta-{name}"] for name in ("export-id", "claim-id", "window-from", "window-to")} == {
        "export-id": str(ended.export_id),
        "claim-id": str(claim_id),
        "window-from": "2023-12-31T23:00:00+00:00",
        "window-to": "2024-12-31T23:00:00+00:00",
    }


@pytest.mark.parametrize("store", ["directory"], indirect=True)
async def test_contacts_with_uuids_as_ids_are_exported_listed_and_found(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 120)
    await change_ids(connection, "uuid")
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        extras = (Extra.COMET_TOKENS, Extra.EMAILS)
        _, file = await export(program.address, space, tmp_path / "file", *extras)
        lines = lines_of(file.path)
        async with ExportClient(program.address, space.key) as client:
            assert [contact async for contact in client.contacts(whole_range(*extras))] == lines[::-1]
        _, contact, _ = await call(program, "GET", f"/public-api/v1/contacts/{lines[7]['id']}", space)
        assert contact["emails"] == lines[7]["emails"]
    assert [line["id"] for line in lines] == [as_type(number, "uuid") for number in range(1, 121)]


async def test_a_link_works_until_it_expires_and_each_status_call_issues_a_new_one(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": database_url, "LINK_SECONDS": "8", **store.settings}
    async with running(settings) as program, aiohttp.ClientSession() as session:
        ended, _ = await export(program.address, space, tmp_path / "file")
        first = ended.download_url
        assert first is not None
        async with asyncio.timeout(60):
            while (http_status := await fetch_status(session, first)) == 200:
                await asyncio.sleep(0.1)
        assert http_status == 403
        assert ended.link_expires_at is not None
        assert ended.link_expires_at <= datetime.now(UTC)
        async with ExportClient(program.address, space.key) as client:
            second = (await client.wait(ended.export_id)).download_url
        assert second is not None
        assert second != first
        assert await fetch_status(session, second) == 200


async def test_forged_and_modified_links_are_refused(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program, aiohttp.ClientSession() as session:
        ended, _ = await export(program.address, space, tmp_path / "file")
        assert ended.download_url is not None
        url = URL(ended.download_url, encoded=True)
        assert await fetch_status(session, str(url)) == 200
        for name, value in url.query.items():
            # Each parameter of a link is signed, or is the signature.
            changed = value[:-1] + ("1" if value[-1] == "0" else "0")
            assert await fetch_status(session, str(url.update_query({name: changed}))) in (400, 403), name
        other = str(url).replace(f"/{ended.export_id}/", f"/{ended.export_id + 1}/")
        assert await fetch_status(session, other) == 403


async def fetch_status(session: aiohttp.ClientSession, url: str) -> int:
    """Request a link and return the HTTP status."""
    async with session.get(URL(url, encoded=True), auto_decompress=False) as response:
        await response.read()
        return response.status


async def test_the_database_has_one_readable_row_per_export(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 10)
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        ended, _ = await export(program.address, space, tmp_path / "file")
    row = await connection.fetchrow("SELECT * FROM export_overview")
    assert row is not None
    assert (row["export_id"], row["space"], row["status"]) == (ended.export_id, "Tests", "completed")
    assert row["summary"].startswith("10 contacts in ")
    assert await store.objects() == [row["object_name"]]
    assert await store.uploads() == []
    attempts = await connection.fetch("SELECT outcome, cleaned_at IS NOT NULL AS clean FROM export_attempts")
    assert [tuple(attempt) for attempt in attempts] == [("completed", True)]


async def test_a_snapshot_neither_waits_for_writers_nor_includes_their_changes(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path, store: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 2000)
    before = await expected_lines(connection, space.space_id, tokens=True, emails=True)
    writer = await asyncpg.connect(database_url)
    try:
        async with running({"DATABASE_URL": database_url, **store.settings}) as program:
            transaction = writer.transaction()
            await transaction.start()
            await writer.execute(
                "UPDATE contacts SET name = 'changed'; DELETE FROM comet_tokens; DELETE FROM contacts WHERE id < 100"
            )
            _, file = await export(program.address, space, tmp_path / "file", Extra.COMET_TOKENS, Extra.EMAILS)
            await transaction.commit()
    finally:
        await writer.close()
    assert lines_of(file.path) == before

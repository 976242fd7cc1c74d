"""An export from the create request to the bytes of the file, by the program with both stores."""

import asyncio
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from yarl import URL

from service.client import Download, ExportClient
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of
from tests.support.id_types import as_type, change_ids
from tests.support.program import running
from tests.support.stores import StoreUnderTest


async def export(address: str, space: Tenant, path: Path, **body: object) -> tuple[dict[str, Any], Download]:
    """Create, poll and download an export; the client checks size, checksum and row count."""
    async with ExportClient(address, space.key) as client:
        export_id = await client.create(**(WHOLE_RANGE | body))
        status = await client.ended(export_id)
        assert status["status"] == "completed", status
        return status, await client.download(status, path)


@pytest.mark.parametrize(("tokens", "emails"), [(0, 0), (1, 0), (0, 1), (1, 1)])
async def test_a_file_equals_the_result_of_a_plain_query(
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    store: StoreUnderTest,
    tmp_path: Path,
    tokens: int,
    emails: int,
) -> None:
    await add_contacts(connection, space.space_id, 1501)
    await connection.execute("SELECT merge_contacts(5, 6), merge_contacts(7, 5), merge_contacts(20, 30)")
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        status, file = await export(
            program.address, space, tmp_path / "file", include_comet_tokens=tokens, include_all_emails=emails
        )
    lines = lines_of(file.path)
    assert lines == await expected_lines(connection, space.space_id, tokens=bool(tokens), emails=bool(emails))
    assert len(lines) == status["row_count"] == 1498
    assert list(lines[0]) == ["id", "email", "name", "phone", "location"] + ["comet_tokens"] * tokens + ["emails"] * emails


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
        _, file = await export(program.address, space, tmp_path / "file", include_comet_tokens=1, include_all_emails=1)
    lines = lines_of(file.path)
    assert [line["name"] for line in lines] == AWKWARD
    assert lines == await expected_lines(connection, space.space_id, tokens=True, emails=True)


async def test_a_space_without_contacts_gets_a_valid_gzip_file_of_zero_bytes(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        status, file = await export(program.address, space, tmp_path / "file")
    assert lines_of(file.path) == []
    assert status["row_count"] == 0


async def test_a_completed_status_has_the_fields_of_the_contract_in_order(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 10)
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        status, file = await export(program.address, space, tmp_path / "file")
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
        status, _ = await export(program.address, space, tmp_path / "file")
        async with aiohttp.request("GET", URL(status["download_url"], encoded=True)) as response:
            headers = response.headers
    claim_id = await connection.fetchval("SELECT claim_id FROM export_attempts")
    assert await store.objects() == [f"{space.space_id}/{status['export_id']}/{claim_id}.ndjson.gz"]
    assert {name: headers[f"x-amz-meta-{name}"] for name in ("export-id", "claim-id", "window-from", "window-to")} == {
        "export-id": str(status["export_id"]),
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
        _, file = await export(program.address, space, tmp_path / "file", include_comet_tokens=1, include_all_emails=1)
        lines = lines_of(file.path)
        query = {**WHOLE_RANGE, "include_comet_tokens": "1", "include_all_emails": "1"}
        async with aiohttp.ClientSession(f"{program.address}", headers=space.headers) as session:
            async with session.get("/public-api/v1/contacts", params=query) as response:
                assert (await response.json())["data"] == lines[::-1]
            async with session.get(f"/public-api/v1/contacts/{lines[7]['id']}") as response:
                assert (await response.json())["emails"] == lines[7]["emails"]
    assert [line["id"] for line in lines] == [as_type(number, "uuid") for number in range(1, 121)]


async def test_a_link_works_until_it_expires_and_each_status_call_issues_a_new_one(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    settings = {"DATABASE_URL": database_url, "LINK_SECONDS": "8", **store.settings}
    async with running(settings) as program, aiohttp.ClientSession() as session:
        status, _ = await export(program.address, space, tmp_path / "file")
        first = status["download_url"]
        async with asyncio.timeout(60):
            while (http_status := await fetch_status(session, first)) == 200:
                await asyncio.sleep(0.1)
        assert http_status == 403
        assert datetime.fromisoformat(status["expires_at"]) <= datetime.now(UTC)
        async with ExportClient(program.address, space.key) as client:
            status = await client.ended(status["export_id"])
        assert status["download_url"] != first
        assert await fetch_status(session, status["download_url"]) == 200


async def test_forged_and_modified_links_are_refused(
    database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with running({"DATABASE_URL": database_url, **store.settings}) as program, aiohttp.ClientSession() as session:
        status, _ = await export(program.address, space, tmp_path / "file")
        url = URL(status["download_url"], encoded=True)
        assert await fetch_status(session, str(url)) == 200
        for name, value in url.query.items():
            # Each parameter of a link is signed, or is the signature.
            changed = value[:-1] + ("1" if value[-1] == "0" else "0")
            assert await fetch_status(session, str(url.update_query({name: changed}))) in (400, 403), name
        other = str(url).replace(f"/{status['export_id']}/", f"/{status['export_id'] + 1}/")
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
        status, _ = await export(program.address, space, tmp_path / "file")
    row = await connection.fetchrow("SELECT * FROM export_overview")
    assert row is not None
    assert (row["export_id"], row["space"], row["status"]) == (status["export_id"], "Tests", "completed")
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
            _, file = await export(program.address, space, tmp_path / "file", include_comet_tokens=1, include_all_emails=1)
            await transaction.commit()
    finally:
        await writer.close()
    assert lines_of(file.path) == before

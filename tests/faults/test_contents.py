"""Exports of contacts that are huge, unusual, or changed while the export runs."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.client import Export, ExportClient, ExportRequest, Extra
from service.failures import SourceData
from tests.support.contacts import Tenant, add_contacts, expected_lines, lines_of, whole_range
from tests.support.export_checks import blocked_reads, until_reading
from tests.support.program import Program, running
from tests.support.stores import StoreUnderTest

_ADD = "INSERT INTO contacts (space_id, created_at, name) VALUES ($1, $2, $3) RETURNING id"

WHOLE = whole_range()


@pytest.fixture
async def program(database_url: str, files: StoreUnderTest) -> AsyncIterator[Program]:
    """The program, with a lease long enough for a busy machine that moves 100 MB."""
    async with running({"DATABASE_URL": database_url, "LEASE_SECONDS": "60", **files.settings}) as program:
        yield program


async def export(
    program: Program, space: Tenant, path: Path, request: ExportRequest = WHOLE
) -> tuple[Export, list[dict[str, Any]]]:
    """Run an export; return it and the lines of its file (none if it did not complete)."""
    async with ExportClient(program.address, space.key) as client:
        export = await client.wait(await client.create(request))
        return export, lines_of((await client.download(export, path)).path) if export.file else []


async def test_a_contact_of_100_mb_is_exported_in_one_attempt_with_less_than_1_gb_of_memory(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 10)
    size = 100_000_000
    await connection.execute(
        "UPDATE contacts SET name = repeat('long ', $1::int) WHERE id = (SELECT min(id) + 4 FROM contacts)", size // 5
    )
    found, lines = await export(program, space, tmp_path / "file")
    assert [len(line["name"]) for line in lines] == [6] * 4 + [size] + [6] * 4 + [7]
    assert found.file is not None
    assert found.file.row_count == 10
    assert await connection.fetchval("SELECT attempts FROM export_jobs") == 1
    assert _peak_memory(program) < 1_000_000_000


async def test_a_contact_with_100000_email_addresses_is_one_line_with_all_of_them(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 3)
    await connection.execute(
        "INSERT INTO contact_emails (contact_id, email, last_seen_at)"
        " SELECT min(id), format('%s@example.net', n), '2024-06-01'::timestamptz + n * interval '1 s'"
        " FROM contacts, generate_series(1, 100000) n GROUP BY n"
    )
    _, lines = await export(program, space, tmp_path / "file", whole_range(Extra.EMAILS))
    assert [len(line["emails"]) for line in lines] == [100_001, 1, 1]
    assert lines[0]["emails"][:2] == ["100000@example.net", "99999@example.net"]


async def test_a_value_that_looks_like_json_stays_a_string(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    deep = "[" * 20_000 + "]" * 20_000
    wide = json.dumps({str(number): None for number in range(10_000)})
    for value in (deep, wide, "NaN", "-Infinity", "1e999"):
        contact = await connection.fetchval(_ADD, space.space_id, datetime(2024, 5, 5, tzinfo=UTC), value)
        await connection.execute("INSERT INTO comet_tokens (contact_id, token) VALUES ($1, $2)", contact, value[-1000:])
    _, lines = await export(program, space, tmp_path / "file", whole_range(Extra.COMET_TOKENS))
    assert [line["name"] for line in lines] == [deep, wide, "NaN", "-Infinity", "1e999"]
    assert all(line["comet_tokens"] == [line["name"][-1000:]] for line in lines)


async def test_ids_above_2_to_the_53_are_exact(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    ids = [2**53 - 1, 2**53 + 1, 2**63 - 1]
    await connection.execute(
        "INSERT INTO contacts (id, space_id, created_at) OVERRIDING SYSTEM VALUE SELECT id, $1, '2024-05-05'"
        " FROM unnest($2::bigint[]) id",
        space.space_id,
        ids,
    )
    _, lines = await export(program, space, tmp_path / "file")
    assert [line["id"] for line in lines] == ids


async def test_timestamps_outside_the_years_1_to_9999_do_not_fail_an_export(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    for created_at in ("infinity", "-infinity", "4713-01-01 BC", "294276-12-31"):
        await connection.execute(
            f"INSERT INTO contacts (space_id, created_at) VALUES ($1, '{created_at}'::timestamptz)", space.space_id
        )
    await add_contacts(connection, space.space_id, 3)
    await connection.execute(
        "UPDATE contact_emails SET last_seen_at = 'infinity'; UPDATE comet_tokens SET last_seen_at = '-infinity'"
    )
    found, lines = await export(program, space, tmp_path / "file", whole_range(Extra.COMET_TOKENS, Extra.EMAILS))
    assert found.file is not None
    assert found.file.row_count == len(lines) == 3
    assert [len(line["comet_tokens"]) for line in lines] == [3, 3, 3]
    found, _ = await export(program, space, tmp_path / "file", ExportRequest(datetime(1, 1, 2), datetime(9999, 12, 30)))
    assert found.file is not None
    assert found.file.row_count == 3


async def test_an_export_of_unreadable_contacts_fails_after_one_attempt_with_a_message(
    program: Program, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 1000)
    await connection.execute(
        "UPDATE contacts SET location = 'a secret' WHERE id = (SELECT max(id) FROM contacts);"
        "ALTER TABLE contacts RENAME TO people;"
        "CREATE VIEW contacts AS SELECT id, space_id, created_at, email, name, phone, merged_into,"
        " CASE WHEN location = 'a secret' THEN location::int::text ELSE location END AS location FROM people"
    )
    found, _ = await export(program, space, tmp_path / "file")
    assert (found.status, found.error_code) == ("failed", "source_data")
    assert found.message == SourceData.message
    row = await connection.fetchrow("SELECT attempts, error_detail FROM export_jobs")
    assert row is not None
    assert row["attempts"] == 1
    assert "secret" not in row["error_detail"]


async def test_a_file_is_one_snapshot_while_contacts_are_inserted_merged_and_deleted(
    program: Program, database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 3000)
    before = await expected_lines(connection, space.space_id, tokens=True, emails=True)
    ids = [line["id"] for line in before]
    # The lock stops the export after it has taken its snapshot.
    async with blocked_reads(database_url) as gate, ExportClient(program.address, space.key) as client:
        export_id = await client.create(whole_range(Extra.COMET_TOKENS, Extra.EMAILS))
        await until_reading(connection)
        await gate.execute(
            "INSERT INTO contacts (space_id, created_at, name) VALUES ($1, '2024-03-02', 'new')", space.space_id
        )
        await gate.execute("SELECT merge_contacts($1, $2), merge_contacts($3, $4)", ids[5], ids[2900], ids[2901], ids[6])
        await gate.execute("DELETE FROM contacts WHERE id = ANY ($1)", [ids[7], ids[2902]])
        await gate.execute("COMMIT")
        file = await client.download(await client.wait(export_id), tmp_path / "file")
    assert lines_of(file.path) == before


def _peak_memory(program: Program) -> int:
    """Return the peak resident memory of the process, in bytes."""
    lines = Path(f"/proc/{program.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

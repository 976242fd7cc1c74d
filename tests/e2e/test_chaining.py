"""Consecutive exports that start at the previous `complete_until`, as documented, miss no contact."""

from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg

from service.client import Export, ExportClient, ExportRequest
from tests.support.contacts import Tenant, lines_of
from tests.support.program import running
from tests.support.stores import directory_store

INSERT = "INSERT INTO contacts (space_id, email) VALUES ($1, $2) RETURNING id"
END = datetime(2999, 12, 31, 23, 59, 59)


async def test_a_contact_of_a_transaction_that_was_open_during_an_export_is_in_the_next_file(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    async def export(start: datetime) -> tuple[Export, set[int]]:
        """Export everything created since the local time `start`; return the export and the ids in its file."""
        async with ExportClient(program.address, space.key) as client:
            export = await client.wait(await client.create(ExportRequest(start, END)))
            file = await client.download(export, tmp_path / "file")
        return export, {line["id"] for line in lines_of(file.path)}

    late = await asyncpg.connect(database_url)
    async with (
        directory_store(tmp_path / "files") as store,
        running({"DATABASE_URL": database_url, **store.settings}) as program,
    ):
        before = await connection.fetchval(INSERT, space.space_id, "before@example.org")
        await late.execute("BEGIN")
        hidden = await late.fetchval(INSERT, space.space_id, "hidden@example.org")
        # Created later than the hidden contact, and yet in the file that does not contain that one.
        seen = await connection.fetchval(INSERT, space.space_id, "seen@example.org")
        first, found = await export(datetime(2024, 1, 1))
        assert found == {before, seen}
        await late.execute("COMMIT")
        await late.close()
        created_at = await connection.fetchval("SELECT created_at FROM contacts WHERE id = $1", hidden)
        assert first.complete_until is not None
        assert first.complete_until <= created_at
        after = await connection.fetchval(INSERT, space.space_id, "after@example.org")
        second, rest = await export(first.complete_until.astimezone(ZoneInfo(first.timezone)).replace(tzinfo=None))
    assert rest - found == {hidden, after}
    assert second.complete_until is not None
    assert second.complete_until >= first.complete_until

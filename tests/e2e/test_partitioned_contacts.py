"""Contacts in partitioned tables, made by the SQL of the page."""

from pathlib import Path

from service.client import ExportClient, Extra
from tests.support import docs, stores
from tests.support.contacts import add_contacts, expected_lines, lines_of, tenant, whole_range
from tests.support.jobs import connect
from tests.support.program import running
from tests.support.shell import contact_exports


async def test_partitioned_contacts_pass_the_check_and_are_exported_exactly(empty_database_url: str, tmp_path: Path) -> None:
    async with connect(empty_database_url) as sql, stores.directory_store(tmp_path / "files") as store:
        await sql.execute(docs.block("sql", "docs/running.md", "PARTITION BY"))
        async with running({"DATABASE_URL": empty_database_url, **store.settings}) as program:
            spaces = [await tenant(empty_database_url) for _ in range(4)]
            for space in spaces:
                await add_contacts(sql, space.space_id, 2000)
            filled = await sql.fetchval("SELECT count(DISTINCT tableoid) FROM contacts")
            assert filled == 2, "the Spaces are in both partitions"
            await sql.execute("VACUUM ANALYZE")
            checked = await contact_exports("contacts", "check", DATABASE_URL=empty_database_url)
            assert (checked.code, checked.output.splitlines()[-1]) == (0, "0 faults, 0 warnings"), checked.output
            space = spaces[0]
            async with ExportClient(program.address, space.key) as client:
                export = await client.wait(await client.create(whole_range(Extra.COMET_TOKENS, Extra.EMAILS)))
                file = await client.download(export, tmp_path / "file")
        assert export.complete_until is not None
        assert lines_of(file.path) == await expected_lines(sql, space.space_id, tokens=True, emails=True)

"""A service on a restored copy of a database, with the STORAGE_URL of the original."""

import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from service.client import ExportClient
from service.embedded.postgres import find_binaries
from tests.e2e.conftest import short_path
from tests.support.calls import create, create_with_tokens
from tests.support.contacts import Tenant, add_contacts
from tests.support.export_checks import ROWS, blocked_reads, expire_leases, until_reading
from tests.support.jobs import connect
from tests.support.object_stores import fetch
from tests.support.program import Program, running, started
from tests.support.shell import contact_exports, shell
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_ended, until_logged, until_row

pytestmark = pytest.mark.long

__all__ = ["short_path"]

REFUSAL = "The files in STORAGE_URL belong to another database"
PATIENT = {"LEASE_SECONDS": "60"}
"""Longer than the dump and the restore take."""


async def restore(original: str, target: str, directory: Path) -> None:
    """Dump a database and restore the dump into an empty one."""
    programs = f"PATH={find_binaries()}:$PATH; cd {directory}\n"
    await shell(f"{programs} pg_dump --format=custom --file=dump '{original}'", {})
    await shell(f"{programs} pg_restore --no-owner --exit-on-error --dbname='{target}' dump", {})


@asynccontextmanager
async def export_in_the_dump(
    database_url: str, copy_url: str, space: Tenant, settings: dict[str, str], directory: Path
) -> AsyncIterator[tuple[str, str]]:
    """While the original runs: the link and the object of an export that was running when the dump was taken."""
    async with connect(database_url) as sql, running({"DATABASE_URL": database_url, **settings, **PATIENT}) as program:
        await add_contacts(sql, space.space_id, ROWS)
        async with blocked_reads(database_url):
            export_id = await create_with_tokens(program, space)
            await until_reading(sql)
            program.send(signal.SIGSTOP)
        await restore(database_url, copy_url, directory)
        program.send(signal.SIGCONT)
        row = await until_ended(sql, export_id)
        assert (row["status"], row["attempts"]) == ("completed", 1)
        async with ExportClient(program.address, space.key) as client:
            link = (await client.wait(export_id)).download_url
        assert link is not None
        yield link, row["object_name"]


async def test_a_service_on_a_restored_copy_refuses_to_start_and_the_live_file_stays(
    database_url: str, empty_database_url: str, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    async with export_in_the_dump(database_url, empty_database_url, space, store.settings, tmp_path) as (link, name):
        async with connect(empty_database_url) as sql:
            await expire_leases(sql)
            assert await sql.fetchval("SELECT object_name FROM export_attempts WHERE cleaned_at IS NULL") == name
            async with started({"DATABASE_URL": empty_database_url, "LEASE_SECONDS": "0.5", **store.settings}) as rehearsal:
                assert await rehearsal.ended() == 2
            assert await sql.fetchval("SELECT status FROM export_jobs") == "processing", "nothing was rescued"
        (text,) = (line["text"].strip() for line in rehearsal.events("text"))
        assert text.startswith(REFUSAL)
        assert text.endswith("contact-exports storage adopt")
        assert await store.objects() == [name]
        assert (await fetch(link)).status == 200


async def readiness(program: Program) -> tuple[int, str]:
    """The status of /readyz and what it says about the store."""
    async with aiohttp.request("GET", f"{program.address}/readyz") as response:
        return response.status, (await response.json())["checks"]["store"]


async def test_a_running_service_whose_files_were_adopted_pauses_until_it_adopts_them_again(
    database_url: str, empty_database_url: str, space: Tenant, files: StoreUnderTest
) -> None:
    other = {"DATABASE_URL": empty_database_url, **files.settings}
    ours = {"DATABASE_URL": database_url, **files.settings}
    async with connect(database_url) as sql, running(ours) as program:
        async with blocked_reads(database_url):
            export_id = await create_with_tokens(program, space)
            await until_reading(sql)
            assert (await contact_exports("migrate", **other)).code == 0
            assert await contact_exports("storage", "adopt", **other) == (0, "", "adopted\n")
            assert await contact_exports("storage", "adopt", **other) == (
                0,
                "",
                "the files already belong to this database\n",
            )
            await until_logged(program, "store_owned_elsewhere")
            row = await until_row(sql, "SELECT * FROM export_jobs WHERE status = 'queued'")
            assert (row["id"], row["attempts"], row["handed_back"]) == (export_id, 0, 1)

        async def refused() -> bool:
            status, store = await readiness(program)
            return status == 503 and store.startswith(REFUSAL)

        await until(refused)
        assert await files.uploads() == []
        deletion = await contact_exports("spaces", "delete", str(space.space_id), "--yes", **ours)
        assert (deletion.code, deletion.errors.startswith(REFUSAL)) == (2, True)
        waiting = await create(program, space)
        assert (await contact_exports("storage", "adopt", **ours)).errors == "adopted\n"
        await until_logged(program, "store_owned_again")
        for each in (export_id, waiting):
            row = await until_ended(sql, each)
            assert (row["status"], row["attempts"]) == ("completed", 1)
        await program.ready()
        assert len(program.events("store_owned_elsewhere")) == 1


async def test_a_store_that_was_down_at_startup_is_not_touched_before_its_owner_is_known(
    database_url: str, empty_database_url: str, space: Tenant, files: StoreUnderTest, tmp_path: Path
) -> None:
    other = {"DATABASE_URL": empty_database_url, **files.settings}
    assert (await contact_exports("migrate", **other)).code == 0
    assert (await contact_exports("storage", "adopt", **other)).code == 0
    (tmp_path / "files").rename(tmp_path / "unmounted")
    async with started({"DATABASE_URL": database_url, **files.settings}) as program:
        await program.listening()
        await until_logged(program, "owner_not_known")
        assert (await readiness(program))[0] == 503
        (tmp_path / "unmounted").rename(tmp_path / "files")
        assert await program.ended() == 2
    assert any(line["text"].startswith(REFUSAL) for line in program.events("text"))


async def test_the_embedded_database_owns_the_files_of_its_directory_also_when_it_is_new(short_path: Path) -> None:
    settings = {"STATE_DIR": str(short_path / "state")}
    async with running(settings) as program:
        assert await program.end() == 0
    shutil.rmtree(short_path / "state" / "postgres")
    async with running(settings) as program:
        assert await program.end() == 0

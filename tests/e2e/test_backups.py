"""A dump of a running service, restored into the same or a later Postgres, while the store went on or went back."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.client import Export, ExportClient, ExportStatus, Extra
from service.embedded.postgres import EmbeddedPostgres, find_binaries
from service.exports.leftovers import ORPHANED_AFTER, Leftovers
from tests.support import docs, postgres, stores
from tests.support.calls import EXPORTS, create, create_with_tokens
from tests.support.contacts import Tenant, add_contacts, tenant, whole_range
from tests.support.export_checks import ROWS, blocked_reads, expire_leases, until_reading
from tests.support.jobs import connect, job_table
from tests.support.object_stores import fetch
from tests.support.program import Program, free_port, running
from tests.support.shell import shell
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended

OPERATING = "docs/operating.md"
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


def binaries(version: int) -> Path:
    """The programs of this major version of Postgres."""
    return DEBIAN_15 if version == 15 else find_binaries()


@contextmanager
def servers(directory: Path, *versions: int) -> Iterator[list[EmbeddedPostgres]]:
    """One server for each different version, in the order of the versions."""
    started: dict[int, EmbeddedPostgres] = {}
    try:
        for version in versions:
            if version not in started:
                place = directory / f"postgres-{version}"
                started[version] = EmbeddedPostgres(place, binaries=binaries(version), parameters={"fsync": "off"})
                started[version].start()
                assert started[version].version.startswith(f"{version}.")
        yield [started[version] for version in versions]
    finally:
        for server in started.values():
            server.stop("immediate")


@dataclass(frozen=True)
class Backup:
    """What consumers got from the original before the dump and after it. `names` are the objects by export id."""

    space: Tenant
    kept: Export
    removed: Export
    next_page: str
    interrupted: int
    later: int
    names: dict[int, str]


async def completed(program: Program, space: Tenant) -> Export:
    """A new export of all contacts, once it is completed."""
    async with ExportClient(program.address, space.key) as client:
        return await client.wait(await client.create(whole_range()))


async def back_up(program: Program, database_url: str, dump: str, programs: str) -> Backup:
    """Create exports, take the dump while one of them runs, and go on with the original afterwards."""
    space = await tenant(database_url)
    async with connect(database_url) as sql:
        await add_contacts(sql, space.space_id, ROWS)
        kept, removed = await completed(program, space), await completed(program, space)
        next_page = (await get(f"{program.address}{EXPORTS}?per_page=1", space))["next_page_url"]
        async with blocked_reads(database_url):
            interrupted = await create_with_tokens(program, space)
            await until_reading(sql)
            program.send(signal.SIGSTOP)
        await shell(programs + dump, {"DATABASE_URL": database_url})
        program.send(signal.SIGCONT)
        assert (await until_ended(sql, interrupted))["status"] == "completed"
        later = (await completed(program, space)).export_id
        rows = await sql.fetch("SELECT id, object_name FROM export_jobs")
    names = {row["id"]: row["object_name"] for row in rows}
    return Backup(space, kept, removed, next_page, interrupted, later, names)


async def get(url: str, space: Tenant) -> Any:
    """The body of a successful response."""
    async with aiohttp.request("GET", url, headers=space.headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


@pytest.mark.parametrize(
    ("dumped", "restored"),
    [
        (18, 18),
        pytest.param(15, 18, marks=pytest.mark.debian),
        pytest.param(15, 15, marks=pytest.mark.debian),
    ],
)
async def test_links_keys_cursors_and_ids_of_a_running_service_survive_a_restore(
    dumped: int, restored: int, short_path: Path, tmp_path: Path
) -> None:
    dumping, restoring = (f"cd {tmp_path}; PATH={binaries(version)}:$PATH\n" for version in (dumped, restored))
    with servers(short_path, dumped, restored) as (old, new):
        async with (
            postgres.database(old.dsn(), "template0") as original_url,
            postgres.database(new.dsn(), "template0") as copy_url,
            stores.directory_store(tmp_path / "files") as files,
        ):
            # The secret of links is in the database, and the links name the port.
            settings = {"STORAGE_URL": files.settings["STORAGE_URL"], "PORT": free_port()}
            async with running({"DATABASE_URL": original_url, "LEASE_SECONDS": "60", **settings}) as program:
                backup = await back_up(program, original_url, docs.block("sh", OPERATING, "pg_dump"), dumping)
                assert await program.end() == 0
            await files.store.delete(backup.names[backup.removed.export_id])
            settings["DATABASE_URL"] = copy_url
            await shell(restoring + docs.block("sh", OPERATING, "pg_restore"), settings)
            async with connect(copy_url) as sql:
                await expire_leases(sql)
            async with running(settings) as program:
                await check_what_consumers_hold(program, backup)
                await check_exports_go_on(program, copy_url, backup)
                assert await program.end() == 0
            await check_the_store(copy_url, files, tmp_path / "files", backup)


async def check_what_consumers_hold(program: Program, backup: Backup) -> None:
    """The old link, key and cursor work; the link of a file that the store lost is not found."""
    assert backup.kept.download_url is not None
    assert backup.kept.file is not None
    assert backup.removed.download_url is not None
    file = await fetch(backup.kept.download_url)
    assert (file.status, sha256(file.body).hexdigest()) == (200, backup.kept.file.sha256)
    assert (await fetch(backup.removed.download_url)).status == 404
    page = await get(backup.next_page, backup.space)
    assert [item["export_id"] for item in page["data"]] == [backup.kept.export_id]


async def check_exports_go_on(program: Program, copy_url: str, backup: Backup) -> None:
    """The export that ran during the dump starts again; the next export gets the next id of the dump."""
    async with connect(copy_url) as sql:
        row = await until_ended(sql, backup.interrupted)
        assert (row["status"], row["lost_leases"]) == ("completed", 1)
        assert row["object_name"] != backup.names[backup.interrupted]
        new = await create(program, backup.space, Extra.EMAILS)
        assert new == backup.later == backup.interrupted + 1
        assert (await until_ended(sql, new))["status"] == "completed"
        await sql.execute(docs.block("sql", "docs/running.md", "setval"))
        assert await create(program, backup.space) > new + 999_999
    async with ExportClient(program.address, backup.space.key) as client:
        assert (await client.cancel(backup.removed.export_id)).status is ExportStatus.EXPIRED


def make_old(directory: Path) -> None:
    """Let all files of the store seem old enough to be deleted if no row names them."""
    old = (datetime.now(UTC) - ORPHANED_AFTER - timedelta(minutes=1)).timestamp()
    for path in directory.rglob("*.object"):
        os.utime(path, (old, old))


async def check_the_store(copy_url: str, files: StoreUnderTest, directory: Path, backup: Backup) -> None:
    """A file that only the original knew is deleted once it is old enough; those of the restored database stay."""
    assert backup.names[backup.later] in await files.objects()
    make_old(directory)
    async with job_table(copy_url) as table:
        await Leftovers(table.claims, files.store, grace=timedelta(0)).delete_orphans()
        rows = await table.sql.fetch("SELECT object_name FROM export_jobs WHERE status = 'completed'")
    assert await files.objects() == sorted(row["object_name"] for row in rows)

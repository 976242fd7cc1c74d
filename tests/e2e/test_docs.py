"""Every command of the README and of docs/ is run: by a test of this module, by another test, or by CI."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.client import ExportClient, ExportStatus, Extra
from service.embedded.postgres import find_binaries
from service.model import ExportRequest
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from tests.support import docs, stores
from tests.support.adopted import adopted, as_role, page_block
from tests.support.calls import cancel, create_once
from tests.support.contacts import Tenant, add_contacts, lines_of, tenant, whole_range
from tests.support.jobs import connect
from tests.support.program import Program, running, started
from tests.support.s3 import S3Access
from tests.support.shell import contact_exports, shell
from tests.support.waiting import until, until_ended, until_row

README, OPERATING, CONSUMING, ADOPTING = "README.md", "docs/operating.md", "docs/consuming.md", "docs/adopting.md"
WEBHOOKS = "docs/webhooks.md"
CLIENT = "docs/client.md"
RUNNING = "docs/running.md"
_EXPORT = "test_the_export_command_and_the_client_work_as_the_page_shows"
_NEWCOMER = "test_a_newcomer_gets_from_nothing_to_a_file_with_the_commands_of_the_pages"
_CONSUMERS = "tests/foreign/test_consumers.py"
_ADOPTER = "test_a_foreign_schema_is_exported_and_becomes_fast_by_the_steps_of_the_page"
_RUN_BY: dict[tuple[str, str], str] = {
    # The page and the beginning of a block, and what runs it: a test of this module, or a file.
    (README, "./run demo\n"): "tests/e2e/test_demo.py",
    (README, "./run test\n"): ".ci/run",
    (README, "curl -X POST"): _NEWCOMER,
    (README, 'curl "$URL/public-api/v1/contacts/exports/1"'): _NEWCOMER,
    (README, "curl -L"): _NEWCOMER,
    (README, 'curl "$URL/public-api/v1/contacts/exports?'): _NEWCOMER,
    (README, "curl -X DELETE"): _NEWCOMER,
    (CONSUMING, "curl -X POST"): _NEWCOMER,
    (CONSUMING, 'curl "$URL/public-api/v1/contacts/exports/1"'): _NEWCOMER,
    (CONSUMING, "curl -L"): _NEWCOMER,
    (CONSUMING, 'curl -G "$URL/public-api/v1/contacts"'): _NEWCOMER,
    (CONSUMING, "curl -o contacts.ndjson.gz"): _NEWCOMER,
    (CONSUMING, "curl -s -o /dev/null"): _NEWCOMER,
    (CONSUMING, "import gzip"): "test_the_reader_reads_exactly",
    (CONSUMING, "import { createReadStream }"): "test_the_reader_reads_exactly",
    (CONSUMING, "gunzip -c"): "test_the_reader_reads_exactly",
    (CLIENT, "contact-exports export --from 2024-01-01 --to 2024-12-31 -o"): _EXPORT,
    (CLIENT, "contact-exports export --from 2024-01-01 --to 2024-12-31 --emails"): _EXPORT,
    (CLIENT, "contact-exports export --since-last"): _EXPORT,
    (CLIENT, "import asyncio"): _EXPORT,
    (CONSUMING, "import pandas"): _CONSUMERS,
    (CONSUMING, "import polars"): _CONSUMERS,
    (CONSUMING, "import pyarrow"): _CONSUMERS,
    (CONSUMING, "import duckdb"): _CONSUMERS,
    (OPERATING, "./run serve\n"): _NEWCOMER,
    (OPERATING, "./run spaces create"): _NEWCOMER,
    (OPERATING, "CONTACT_EXPORTS_API_KEY=KEY"): _NEWCOMER,
    (OPERATING, "python3 -m venv"): ".ci/package",
    (OPERATING, "export DATABASE_URL"): "test_the_commands_for_a_real_database_bring_the_service_up",
    (OPERATING, "pg_dump"): "test_a_restored_backup_works",
    (OPERATING, "pg_restore"): "test_a_restored_backup_works",
    (OPERATING, "export OTEL_EXPORTER_OTLP_ENDPOINT"): "tests/e2e/test_traces.py",
    (OPERATING, "contact-exports storage adopt"): "tests/faults/test_restored_copies.py",
    (OPERATING, "CREATE ROLE"): "test_the_role_and_the_database_of_the_page_are_all_that_the_service_needs",
    (OPERATING, "GRANT"): "test_the_service_works_with_the_documented_grants_and_no_more",
    (OPERATING, "SELECT"): "test_the_recipe_runs",
    (OPERATING, "--"): "test_the_recipe_runs",
    (ADOPTING, "CREATE"): _ADOPTER,
    (ADOPTING, "./run help\n"): "tests/unit/test_run.py",
    (ADOPTING, "export DATABASE_URL"): _ADOPTER,
    (ADOPTING, "contact-exports storage init"): _ADOPTER,
    (ADOPTING, "contact-exports contacts check"): _ADOPTER,
    (ADOPTING, "contact-exports serve"): _ADOPTER,
    (ADOPTING, "export PATH"): _ADOPTER,
    (ADOPTING, "ALTER ROLE"): _ADOPTER,
    (ADOPTING, "ANALYZE"): _ADOPTER,
    (ADOPTING, "ALTER TABLE crm.people"): _ADOPTER,
    (ADOPTING, "DROP VIEW"): _ADOPTER,
    (ADOPTING, "REFRESH"): _ADOPTER,
    (WEBHOOKS, "contact-exports webhooks"): "tests/e2e/test_webhooks.py",
    (WEBHOOKS, "from standardwebhooks"): "tests/e2e/test_webhooks.py",
    (WEBHOOKS, "SELECT"): "test_the_recipe_runs",
    (WEBHOOKS, "--"): "test_the_recipe_runs",
    (RUNNING, "python3 -m venv"): ".ci/package",
    (RUNNING, "set -a"): "tests/e2e/test_deployments.py",
    (RUNNING, "install"): "tests/e2e/test_deployments.py",
    (RUNNING, "CREATE TABLE contacts"): "tests/e2e/test_partitioned_contacts.py",
    (RUNNING, "SELECT setval"): "tests/e2e/test_backups.py",
    ("docs/performance.md", "./run bench\n"): "tests/e2e/test_bench.py",
    ("docs/reliability.md", "./run chaos"): "tests/faults/test_chaos.py",
    ("docs/reliability.md", "./run mutants\n"): ".ci/run",
    ("docs/reliability.md", "./run hold"): "tests/faults/test_many_connections.py",
    (OPERATING, "contact-exports spaces delete"): "tests/e2e/test_commands.py",
    ("docs/reliability.md", "./run foreign\n"): ".ci/run",
    ("docs/reliability.md", "./run test -m debian\n"): ".ci/run",
    ("docs/reliability.md", "./run test -m long\n"): ".ci/run",
    ("CONTRIBUTING.md", "./run check\n"): ".ci/run",
}
_NOT_RUN: dict[tuple[str, str], str] = {
    (
        RUNNING,
        "systemd-sysusers",
    ): "it needs a machine that systemd has started; tests/e2e/test_deployments.py checks the unit",
    (RUNNING, "kubectl"): "it needs a cluster; tests/e2e/test_deployments.py validates the manifests",
    ("CONTRIBUTING.md", "./run lock"): "its result depends on the newest releases, and a test must not change the pins",
}
_WORDS_OF_FOUR_MINUTES = 1_000
_READERS = {
    # A reader, the language of its block, the beginning of the block, and the command that runs the block from a file.
    "python": ("python", "import gzip", f"{sys.executable} block"),
    "node": ("js", "import {", "cp block block.mjs && node block.mjs"),
    "jq": ("sh", "gunzip -c contacts.ndjson.gz | sed", "sh block"),
}


def test_every_block_of_code_is_run_by_something_that_exists() -> None:
    known = {**_RUN_BY, **_NOT_RUN}
    used = set()
    for language in ("sh", "sql", "python", "js"):
        for page, text in docs.blocks(language):
            keys = [(on, start) for on, start in known if on == page and text.startswith(start)]
            assert len(keys) == 1, f"{page}: add a test that runs this block, and name it in _RUN_BY\n{text}"
            used.update(keys)
    assert used == set(known)
    for runner in _RUN_BY.values():
        assert runner in globals() or (docs.ROOT / runner).exists(), runner


async def test_a_newcomer_gets_from_nothing_to_a_file_with_the_commands_of_the_pages(short_path: Path) -> None:
    settings = {"STATE_DIR": str(short_path / "state")}
    async with running(settings) as program:
        by_hand = docs.block("sh", OPERATING, "spaces create").replace("./run ", "contact-exports ")
        space_id, key = (await shell(by_hand, settings)).split()
        assert space_id == "1"
        calls = settings | {"URL": program.address, "KEY": key}
        examples = [json.loads(block.text) for block in docs.blocks("json", README)]
        line, created, completed = examples
        assert json.loads(await shell(docs.block("sh", README, "POST"), calls)) == created
        status = json.loads(await shell(docs.block("sh", README, 'curl "$URL/public-api/v1/contacts/exports/1"'), calls))
        assert list(status) == list(completed)
        assert status["row_count"] == 9800
        assert status["status"] == "completed"
        for page in (README, CONSUMING):
            await shell(f"cd {short_path}\n" + docs.block("sh", page, "curl -L"), calls)
            assert (short_path / "contacts.ndjson.gz").stat().st_size == status["file_size"]
            (short_path / "contacts.ndjson.gz").unlink()
        again = json.loads(await shell(docs.block("sh", CONSUMING, "Prefer: wait=30"), calls))
        assert again["sha256"] == status["sha256"]
        checksum, *lines = (
            await shell(
                f"cd {short_path}\n" + docs.block("sh", CONSUMING, "sha256sum"), calls | {"LINK": status["download_url"]}
            )
        ).splitlines()
        head = await shell(docs.block("sh", CONSUMING, "-r 0-0"), calls | {"LINK": status["download_url"]})
        assert head.startswith("HTTP/1.1 206 ")
        assert f"Content-Range: bytes 0-0/{status['file_size']}\r" in head
        page = json.loads(await shell(docs.block("sh", README, "per_page"), calls))
        assert ([item["export_id"] for item in page["data"]], page["per_page"]) == ([1], 50)
        page = json.loads(await shell(docs.block("sh", CONSUMING, "curl -G"), calls))
        assert (len(page["data"]), page["per_page"]) == (500, 500)
        assert list(page["data"][0]) == ["id", "email", "name", "phone", "location", "emails"]
        assert json.loads(await shell(docs.block("sh", README, "DELETE"), calls))["status"] == "expired"
        named = docs.block("sh", CONSUMING, "Idempotency-Key")
        assert await shell(named, calls) == await shell(named, calls) == '{"export_id":2,"status":"queued"}'
        with_command = docs.block("sh", OPERATING, "CONTACT_EXPORTS_API_KEY=KEY").replace("./run ", "contact-exports ")
        with_command = with_command.replace("=KEY", f"={key}").replace("http://127.0.0.1:8080", program.address)
        await shell(with_command.replace("/tmp", str(short_path)), settings)
        assert gzip.decompress((short_path / "space-one.ndjson.gz").read_bytes()).count(b"\n") == status["row_count"]
    assert checksum.split()[0] == status["sha256"]
    assert [list(json.loads(text)) for text in lines] == [list(line)] * 3


async def test_the_commands_for_a_real_database_bring_the_service_up(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": empty_database_url, "STORAGE_URL": (tmp_path / "files").as_uri()}
    exported, prepare, serve = [], [], ""
    for line in docs.block("sh", OPERATING, "storage init").splitlines():
        command = line.partition("#")[0].strip()
        if command.startswith("export "):
            exported.append(command.split()[1].partition("=")[0])
        elif command.endswith(" serve"):
            serve = command
        else:
            prepare.append(command)
    assert (exported, serve) == (list(settings), "contact-exports serve")
    await shell("\n".join(prepare), settings)
    async with running(settings):
        pass


@pytest.fixture
async def connection(database_url: str) -> asyncpg.Connection:
    """A connection to the test's database."""
    return await asyncpg.connect(database_url)


@pytest.mark.parametrize(
    "recipe",
    [text for page in (OPERATING, WEBHOOKS) for _, text in docs.blocks("sql", page) if text.startswith(("SELECT", "--"))],
)
async def test_the_recipe_runs(recipe: str, database_url: str, connection: asyncpg.Connection) -> None:
    await tenant(database_url)
    await connection.execute(recipe)
    await connection.close()


async def test_the_recipe_pauses_and_resumes_a_space(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    pause = next(
        line for _, text in docs.blocks("sql", OPERATING) for line in text.splitlines() if "max_running_exports" in line
    )
    await connection.execute(pause)
    async with (
        stores.directory_store(tmp_path / "files") as store,
        running({"DATABASE_URL": database_url, **store.settings}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        export_id = await client.create(whole_range())
        assert await connection.fetchval("SELECT summary FROM export_overview") == "waiting: the Space is paused"
        await connection.execute(pause.replace("= 0", "= NULL"))
        assert (await until_ended(connection, export_id))["status"] == "completed"
    await connection.close()


async def test_the_recipe_kicks_a_running_export(database_url: str, connection: asyncpg.Connection, tmp_path: Path) -> None:
    space = await tenant(database_url)
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings}
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            blocker = await asyncpg.connect(database_url)
            await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
            export_id = await client.create(whole_range(Extra.COMET_TOKENS))
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            taken = await connection.fetchval("SELECT claim_id FROM export_jobs")
            await connection.execute(recipe("kick_export"))
            assert (await connection.fetchval("SELECT outcome FROM export_attempts")) == "handed_back"
            await until(lambda: logged(program, "claim_lost"))
            await blocker.close()
            assert (await until_ended(connection, export_id))["status"] == "completed"
        assert await connection.fetchval("SELECT count(*) FROM export_jobs WHERE object_name LIKE $1", f"%{taken}%") == 0
    await connection.close()


@pytest.mark.long
async def test_the_recipes_cancel_and_retry_an_export(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings}
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            blocker = await asyncpg.connect(database_url)
            await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
            export_id = await client.create(whole_range(Extra.COMET_TOKENS))
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            await connection.execute(recipe("cancel_export"))
            assert (await client.wait(export_id)).status is ExportStatus.CANCELLED
            await until(lambda: logged(program, "claim_lost"))
            await blocker.close()
            again = await connection.fetchval(recipe("retry_export"))
            ended = await until_ended(connection, again)
            assert (ended["status"], ended["extras"]) == ("completed", ["comet_tokens"])
            await until_row(connection, "SELECT 1 WHERE NOT EXISTS (SELECT FROM export_attempts WHERE cleaned_at IS NULL)")
            assert (await store.objects(), await store.uploads()) == ([ended["object_name"]], [])
    await connection.close()


async def test_the_recipe_deletes_the_files_that_may_hold_a_contact_and_no_others(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    assert space.space_id == 1
    await add_contacts(connection, space.space_id, 1, first=datetime(2024, 3, 1, 11, 59, 59, tzinfo=UTC))
    erase = docs.block("sql", OPERATING, "file_delete_after = now()")
    other = ExportRequest(datetime(2024, 3, 2), datetime(2024, 3, 2, 23, 59, 59))
    expire = "UPDATE export_jobs SET status = 'expired', expired_at = now(), file_delete_after = 'infinity' WHERE id = $1"
    async with stores.directory_store(tmp_path / "files") as store:
        async with (
            running({"DATABASE_URL": database_url, **store.settings}) as program,
            ExportClient(program.address, space.key) as client,
        ):
            kept = await client.wait(await client.create(other))
            expired = await client.wait(await client.create(whole_range()))
            holding = await client.wait(await client.create(whole_range()))
            assert holding.file is not None
            assert holding.file.row_count == 1
            await connection.execute(expire, expired.export_id)
            await connection.execute(erase)
            await until_row(connection, "SELECT 1 FROM export_jobs HAVING count(file_deleted_at) = 2")
            assert (await client.status(holding.export_id)).status is ExportStatus.EXPIRED
            assert (await client.status(kept.export_id)).status is ExportStatus.COMPLETED
        assert [name.split("/")[1] for name in await store.objects()] == [str(kept.export_id)]
    await connection.close()


def recipe(function: str) -> str:
    """The one line of the recipes that calls this function."""
    (line,) = [line for _, text in docs.blocks("sql", OPERATING) for line in text.splitlines() if f"{function}(1)" in line]
    return line


async def logged(program: Program, event: str) -> bool:
    """Whether the program has logged this event."""
    return bool(program.events(event))


async def test_the_service_works_with_the_documented_grants_and_no_more(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space: Tenant = await tenant(database_url)
    await add_contacts(connection, space.space_id, 20)
    grants = docs.block("sql", OPERATING, "GRANT SELECT")
    role = f"documented_{os.getpid()}"
    await connection.execute(f"CREATE ROLE {role} LOGIN; " + grants.replace("contact_exports;", f"{role};"))
    limited = re.sub(r"//[^@/]*@", f"//{role}@", database_url)
    assert limited != database_url
    try:
        async with stores.directory_store(tmp_path / "files") as store:
            settings = {"DATABASE_URL": limited, "MIGRATE_ON_START": "false", **store.settings}
            settings.pop("LINK_SECRET")
            async with running(settings) as program, ExportClient(program.address, space.key) as client:
                export_id = await client.create(whole_range(Extra.COMET_TOKENS, Extra.EMAILS))
                export = await client.wait(export_id)
                assert export.complete_until is not None
                await client.download(export, tmp_path / "file")
                await create_once(program.address, space, "a key")
                assert (await cancel(program.address, space, export_id)).status is ExportStatus.EXPIRED
            async with Database(limited, application_name="tests", size=1) as database:
                files, jobs = ExportFiles(database), ExportJobs(database)
                await files.expire(links_live=timedelta(0))
                assert await files.deletable() == []
                await files.record_deleted(export_id)
                assert await files.forget(age=timedelta(0)) == 1
                await connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
                assert await jobs.prune_idempotency_keys() == 1
            errors = [entry for entry in program.log if entry.get("level") in ("error", "warning")]
            assert errors == []
            await run_all_commands(limited, store.settings["STORAGE_URL"])
        async with connect(limited) as operator:
            for text in (text for _, text in docs.blocks("sql", OPERATING) if text.startswith(("SELECT", "--"))):
                await operator.execute(text)
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def run_all_commands(url: str, files: str) -> None:
    """Run every command on this database and storage, except `seed`, which only the owner of the contacts may."""

    async def succeeds(command: str, **settings: str) -> str:
        ended = await contact_exports(*command.split(), DATABASE_URL=url, **settings)
        assert ended.code == 0, f"{command}: {ended.errors}"
        return ended.output.strip()

    space_id = await succeeds("spaces create X --timezone UTC")
    key = await succeeds(f"keys create --space {space_id}")
    async with connect(url) as sql:
        export_id = await sql.fetchval(
            "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)"
            " VALUES ($1, '2024-01-01', '2024-01-02', 'UTC', '2024-01-01Z', '2024-01-02Z', 1) RETURNING id",
            int(space_id),
        )
    reads = ("migrate", "spaces list", "keys list", "exports list", f"exports show {export_id}")
    writes = (f"keys revoke {key}", f"exports cancel {export_id}", f"spaces suspend {space_id}")
    await asyncio.gather(*map(succeeds, (*reads, *writes)))
    await succeeds(f"spaces activate {space_id}")
    await succeeds(f"spaces delete {space_id} --yes", STORAGE_URL=files)


async def test_the_role_and_the_database_of_the_page_are_all_that_the_service_needs(
    postgres_server: str, tmp_path: Path
) -> None:
    name = f"contact_exports_test_{os.getpid()}"
    statements = docs.block("sql", OPERATING, "CREATE ROLE").replace("contact_exports", name).split(";\n")
    async with connect(postgres_server) as superuser:
        try:
            for text in filter(None, statements):
                await superuser.execute(text)
            url = urlsplit(re.sub(r"//[^@/]*@", f"//{name}:secret@", postgres_server))._replace(path=f"/{name}").geturl()
            async with (
                stores.directory_store(tmp_path / "files") as store,
                running({"DATABASE_URL": url, **store.settings}) as program,
            ):
                space = await tenant(url)
                async with ExportClient(program.address, space.key) as client:
                    export = await client.wait(await client.create(whole_range()))
                    assert export.status is ExportStatus.COMPLETED
        finally:
            await superuser.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await superuser.execute(f"DROP ROLE IF EXISTS {name}")


async def test_a_service_that_must_not_migrate_names_the_command_that_does(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": empty_database_url, "STORAGE_URL": tmp_path.as_uri(), "MIGRATE_ON_START": "false"}
    async with started(settings) as program:
        assert await program.ended() == 2
    assert "contact-exports migrate" in "".join(entry["text"] for entry in program.events("text"))


ADA, ALIAS, GONE, BOB, EVE = (f"00000000-0000-0000-0000-00000000000{number}" for number in range(1, 6))
PEOPLE = f"""
  INSERT INTO crm.people (person_key, tenant, created, addresses, full_name, mobile, city, deleted_at, duplicate_of) VALUES
    ('{ADA}', 'acme', '2024-05-01', '[{{"mail": "ada@example.org", "seen": "2024-05-01T08:00:00"}}]',
     'Ada', '0049', 'London', NULL,
     NULL),
    ('{ALIAS}', 'acme', '2024-05-02', '[{{"mail": "lovelace@example.org", "seen": "2024-05-02T08:00:00"}}]',
     'Ada', NULL, NULL, NULL, '{ADA}'),
    ('{GONE}', 'acme', '2024-05-03', '[]', 'Gone', NULL, NULL, '2024-06-01', NULL),
    ('{BOB}', 'other', '2024-05-04', '[]', 'Bob', NULL, NULL, NULL, NULL);
  INSERT INTO crm.sightings VALUES
    ('{ADA}', 'x', '2024-05-01'), ('{ALIAS}', 'x', '2024-05-04'), ('{ALIAS}', 'y', '2024-05-03')
"""
LINE = {
    "id": ADA,
    "email": "ada@example.org",
    "name": "Ada",
    "phone": "0049",
    "location": "London",
    "comet_tokens": ["x", "y"],
    "emails": ["lovelace@example.org", "ada@example.org"],
}


async def test_a_foreign_schema_is_exported_and_becomes_fast_by_the_steps_of_the_page(
    postgres_server: str, empty_database_url: str, s3: S3Access, bucket: str, tmp_path: Path
) -> None:
    async with adopted(postgres_server, 0) as crm:
        own = stores.s3_settings(s3, bucket, prefix="contacts")
        settings = {"DATABASE_URL": empty_database_url, "CONTACTS_DATABASE_URL": crm.url, **own}
        await crm.owner.execute("CREATE TABLE public.contacts (the_name text, is_taken text)")
        await crm.owner.execute(PEOPLE)
        assert exported_names(docs.block("sh", ADOPTING, "export DATABASE_URL")) == list(settings)
        space_id, key = (await shell(docs.block("sh", ADOPTING, "storage init"), settings)).split()
        assert space_id == "1"
        checked = await contact_exports(*docs.block("sh", ADOPTING, "contacts check").split()[1:], **settings)
        assert checked.code == 1, checked.output
        assert "0 faults, " in checked.output
        assert docs.block("sh", ADOPTING, "exports serve") == "contact-exports serve\n"
        async with (
            running(settings) as program,
            ExportClient(program.address, key) as client,
        ):
            consumer = docs.block("sh", ADOPTING, "gunzip -c")
            calls = {"CONTACT_EXPORTS_URL": program.address, "CONTACT_EXPORTS_API_KEY": key}
            assert exported_names(consumer) == ["PATH", *calls]
            commands = "\n".join(line for line in consumer.splitlines() if not line.startswith("export "))
            first = json.loads(await shell(f"cd {tmp_path}\n{commands}", calls))
            assert first == {name: value for name, value in LINE.items() if name not in ("comet_tokens", "emails")}

            async def exported() -> list[dict[str, object]]:
                export_id = await client.create(whole_range(Extra.COMET_TOKENS, Extra.EMAILS))
                return lines_of((await client.download(await client.wait(export_id), tmp_path / "file")).path)

            async def found() -> set[str]:
                return {finding.code for finding in (await crm.check()).findings}

            assert (await exported(), await found()) == ([LINE], {"index_missing"})
            await crm.run_as_owner(page_block("CREATE INDEX CONCURRENTLY ON crm.people (tenant"))
            await crm.run_as_owner(page_block("CREATE INDEX CONCURRENTLY ON crm.people (duplicate_of"))
            await crm.run_as_owner(page_block("ANALYZE"))
            assert (await exported(), await found()) == ([LINE], {"sorted"})
            await crm.run_as_owner(page_block("ALTER TABLE crm.people"))
            assert await exported() == [LINE]
            report = await shell(docs.block("sh", ADOPTING, "contacts check"), settings)
            assert report.endswith("\n0 faults, 0 warnings\n")
            await crm.run_as_owner(page_block("DROP VIEW"))
            assert (await exported(), await found()) == ([LINE], {"materialized_view", "complete_until_unknown"})
            await crm.owner.execute(
                f"INSERT INTO crm.people (person_key, tenant, created) VALUES ('{EVE}', 'acme', '2024-05-05')"
            )
            await crm.run_as_owner(page_block("REFRESH"))
            assert [line["id"] for line in await exported()] == [ADA, EVE]


def exported_names(script: str) -> list[str]:
    """The environment variables that the lines of a script export."""
    return re.findall(r"^export (\w+)=", script, re.MULTILINE)


def test_the_first_part_of_the_page_for_adopters_is_read_in_four_minutes() -> None:
    text = docs.text_of(ADOPTING)
    assert len(text[: text.index("\n## Faster\n")].split()) <= _WORDS_OF_FOUR_MINUTES


async def test_the_database_of_the_page_belongs_to_its_role(postgres_server: str) -> None:
    name = f"contact_exports_test_{os.getpid()}"
    made = page_block("CREATE ROLE").partition("CREATE SCHEMA")[0]
    statements = made.replace("contact_exports", name).splitlines()
    async with connect(postgres_server) as server:
        try:
            for each in statements:
                await server.execute(each)
            url = as_role(urlsplit(postgres_server)._replace(path=f"/{name}").geturl(), name)
            await shell("contact-exports migrate", {"DATABASE_URL": url})
        finally:
            await server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await server.execute(f"DROP ROLE IF EXISTS {name}")


async def test_a_restored_backup_works(database_url: str, empty_database_url: str, tmp_path: Path) -> None:
    space = await tenant(database_url)
    programs = f"cd {tmp_path}; PATH={find_binaries()}:$PATH\n"
    async with stores.directory_store(tmp_path / "files") as store:
        async with (
            running({"DATABASE_URL": database_url, **store.settings}) as program,
            ExportClient(program.address, space.key) as client,
        ):
            export_id = await client.create(whole_range())
            await client.wait(export_id)
        await shell(programs + docs.block("sh", OPERATING, "pg_dump"), {"DATABASE_URL": database_url})
        restored = {"DATABASE_URL": empty_database_url, **store.settings}
        await shell(programs + docs.block("sh", OPERATING, "pg_restore"), restored)
        async with (
            running(restored) as program,
            ExportClient(program.address, space.key) as client,
        ):
            await client.download(await client.wait(export_id), tmp_path / "file")
            assert (await client.wait(await client.create(whole_range()))).status is ExportStatus.COMPLETED


async def test_the_export_command_and_the_client_work_as_the_page_shows(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    await add_contacts(connection, space.space_id, 20)
    await connection.close()
    packed, piped, following = (block.text for block in docs.blocks("sh", CLIENT))
    (tmp_path / "script.py").write_text(docs.block("python", CLIENT, "ExportClient"))
    async with (
        stores.directory_store(tmp_path / "files") as store,
        running({"DATABASE_URL": database_url, **store.settings}) as program,
    ):
        calls = {"CONTACT_EXPORTS_URL": program.address, "CONTACT_EXPORTS_API_KEY": space.key}
        await shell(f"cd {tmp_path}\n{packed}", calls)
        assert (await shell(piped, calls)).strip() == "21"
        await shell(f"cd {tmp_path}\n{following}", calls)
        name, rows, sha256 = (await shell(f"cd {tmp_path}; {sys.executable} script.py", calls)).split()
    assert len(lines_of(tmp_path / "contacts.ndjson.gz")) == int(rows) == 20
    assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == sha256
    assert await shell(f"gunzip -c {tmp_path}/contacts-*.gz", {}) == await shell(
        f"gunzip -c {tmp_path}/contacts.ndjson.gz", {}
    )


@pytest.mark.parametrize(
    "reader", [reader if reader == "python" else pytest.param(reader, marks=pytest.mark.debian) for reader in _READERS]
)
async def test_the_reader_reads_exactly(
    reader: str, database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    language, beginning, command = _READERS[reader]
    space = await tenant(database_url)
    contacts = {9007199254740993: "0049301234567", 9007199254740995: None, 2**63 - 1: "12"}
    for contact_id, phone in contacts.items():
        await connection.execute(
            "INSERT INTO contacts (id, space_id, created_at, name, phone) VALUES ($1, $2, '2024-05-01Z', $3, $4)",
            contact_id,
            space.space_id,
            "a\u2028b\u2029c\u0085d",
            phone,
        )
    async with (
        stores.directory_store(tmp_path / "files") as store,
        running({"DATABASE_URL": database_url, **store.settings}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        status = await client.wait(await client.create(whole_range()))
        await client.download(status, tmp_path / "contacts.ndjson.gz")
    await connection.close()
    (tmp_path / "block").write_text(docs.block(language, CONSUMING, beginning))
    output = await shell(f"cd {tmp_path} && {command}", {})
    null = "None" if reader == "python" else "null"
    assert output.splitlines() == [f"{contact_id} {phone or null}" for contact_id, phone in contacts.items()]

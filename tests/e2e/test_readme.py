"""Every command of the README is run: here, or by continuous integration (`./run demo`, `./run test`, the install lines)."""

import json
import os
import re
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from service.client import ExportClient
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from tests.support import readme, stores
from tests.support.calls import cancel, create_once
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, tenant
from tests.support.program import Program, running, started
from tests.support.shell import shell
from tests.support.waiting import until, until_ended, until_row

ROOT = Path(__file__).parents[2]
STATUS = 'curl "$URL/public-api/v1/contacts/exports/1"'
RUN_BY_CI = ("./run demo\n", "./run test\n", "./run serve\n")


def block(containing: str) -> str:
    """The one shell block that holds this text."""
    found = [text for text in readme.blocks("sh") if containing in text]
    assert len(found) == 1, containing
    return found[0]


def test_every_shell_block_is_run_by_something() -> None:
    run_here = (
        "pip install",
        "contact-exports serve",
        "spaces create",
        "curl -X POST",
        STATUS,
        "DELETE",
        "per_page",
        "gunzip",
    )
    for text in readme.blocks("sh"):
        assert text in RUN_BY_CI or any(part in text for part in run_here), text


def test_the_install_lines_are_those_of_the_run_script() -> None:
    lines = block("pip install").splitlines()
    script = (ROOT / "run").read_text()
    assert lines[1] == ".venv/bin/pip install -c constraints.txt -e '.[embedded]'"
    assert 'install "$venv" -c constraints.txt -e ".[$extras]"' in script
    assert "prepare embedded\n" in script


async def test_a_newcomer_gets_from_nothing_to_a_file_with_the_commands_of_the_readme(short_path: Path) -> None:
    settings = {"STATE_DIR": str(short_path / "state")}
    async with running(settings) as program:
        by_hand = block("spaces create").replace("./run ", "contact-exports ")
        space_id, key = (await shell(by_hand, settings)).split()
        assert space_id == "1"
        calls = settings | {"URL": program.address, "KEY": key}
        assert json.loads(await shell(block("curl -X POST"), calls)) == json.loads(readme.blocks("json")[0])
        async with ExportClient(program.address, key) as client:
            await client.ended(1)
        status = json.loads(await shell(block(STATUS), calls))
        assert list(status) == list(json.loads(readme.blocks("json")[1]))
        assert status["row_count"] == 9800
        lines = await shell(f"cd {short_path}\n" + block("gunzip"), calls | {"LINK": status["download_url"]})
        page = json.loads(await shell(block("per_page"), calls))
        assert ([item["export_id"] for item in page["data"]], page["per_page"]) == ([1], 50)
        assert json.loads(await shell(block("DELETE"), calls))["status"] == "expired"
    assert [list(json.loads(line)) for line in lines.splitlines()] == [
        ["id", "email", "name", "phone", "location", "comet_tokens", "emails"]
    ] * 3


async def test_the_commands_for_a_real_database_bring_the_service_up(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": empty_database_url, "STORAGE_URL": (tmp_path / "files").as_uri()}
    exported, prepare, serve = [], [], ""
    for line in block("storage init").splitlines():
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


@pytest.mark.parametrize("recipe", [text for text in readme.blocks("sql") if "GRANT" not in text])
async def test_the_recipe_runs(recipe: str, database_url: str, connection: asyncpg.Connection) -> None:
    await tenant(database_url)
    await connection.execute(recipe)
    await connection.close()


async def test_pausing_a_space_and_going_on_is_what_the_recipe_does(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    pause = next(line for text in readme.blocks("sql") for line in text.splitlines() if "max_running_exports" in line)
    await connection.execute(pause)
    async with (
        stores.directory_store(tmp_path / "files") as store,
        running({"DATABASE_URL": database_url, **store.settings}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        export_id = await client.create(**WHOLE_RANGE)
        assert await connection.fetchval("SELECT summary FROM export_overview") == "waiting: the Space is paused"
        await connection.execute(pause.replace("= 0", "= NULL"))
        assert (await until_ended(connection, export_id))["status"] == "completed"
    await connection.close()


async def test_kicking_a_running_export_is_what_the_recipe_does(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings}
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            blocker = await asyncpg.connect(database_url)
            await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
            export_id = await client.create(**WHOLE_RANGE, include_comet_tokens=1)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            taken = await connection.fetchval("SELECT claim_id FROM export_jobs")
            await connection.execute(recipe("kick_export"))
            assert (await connection.fetchval("SELECT outcome FROM export_attempts")) == "handed_back"
            await until(lambda: logged(program, "claim_lost"))
            await blocker.close()
            assert (await until_ended(connection, export_id))["status"] == "completed"
        assert await connection.fetchval("SELECT count(*) FROM export_jobs WHERE object_name LIKE $1", f"%{taken}%") == 0
    await connection.close()


async def test_cancelling_and_retrying_an_export_is_what_the_recipes_do(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    async with stores.directory_store(tmp_path / "files") as store:
        settings = {"DATABASE_URL": database_url, **store.settings}
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            blocker = await asyncpg.connect(database_url)
            await blocker.execute("BEGIN; LOCK TABLE comet_tokens IN ACCESS EXCLUSIVE MODE")
            export_id = await client.create(**WHOLE_RANGE, include_comet_tokens=1)
            await until_row(connection, "SELECT 1 FROM export_attempts WHERE upload_id IS NOT NULL")
            await connection.execute(recipe("cancel_export"))
            assert (await client.ended(export_id))["status"] == "cancelled"
            await until(lambda: logged(program, "claim_lost"))
            await blocker.close()
            again = await connection.fetchval(recipe("retry_export"))
            ended = await until_ended(connection, again)
            assert (ended["status"], ended["include_comet_tokens"]) == ("completed", True)
            await until_row(connection, "SELECT 1 WHERE NOT EXISTS (SELECT FROM export_attempts WHERE cleaned_at IS NULL)")
            assert (await store.objects(), await store.uploads()) == ([ended["object_name"]], [])
    await connection.close()


def recipe(function: str) -> str:
    """The one line of the README's recipes that calls this function."""
    (line,) = [line for text in readme.blocks("sql") for line in text.splitlines() if f"{function}(" in line]
    return line


async def logged(program: Program, event: str) -> bool:
    """Whether the program has logged this event."""
    return bool(program.events(event))


async def test_the_service_works_with_the_rights_that_the_readme_names_and_no_more(
    database_url: str, connection: asyncpg.Connection, tmp_path: Path
) -> None:
    space: Tenant = await tenant(database_url)
    await add_contacts(connection, space.space_id, 20)
    grants = next(text for text in readme.blocks("sql") if "GRANT" in text)
    role = f"readme_{os.getpid()}"
    await connection.execute(f"CREATE ROLE {role} LOGIN; " + grants.replace("contact_exports;", f"{role};"))
    limited = re.sub(r"//[^@/]*@", f"//{role}@", database_url)
    assert limited != database_url
    try:
        async with stores.directory_store(tmp_path / "files") as store:
            settings = {"DATABASE_URL": limited, "MIGRATE_ON_START": "false", **store.settings}
            settings.pop("LINK_SECRET")
            async with running(settings) as program, ExportClient(program.address, space.key) as client:
                export_id = await client.create(**WHOLE_RANGE, include_all_emails=1, include_comet_tokens=1)
                status = await client.ended(export_id)
                assert status["status"] == "completed"
                assert status["complete_until"] is not None
                await client.download(status, tmp_path / "file")
                await create_once(program.address, space, "a key")
                assert (await cancel(program.address, space, export_id))["status"] == "expired"
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
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_a_service_that_may_not_migrate_says_what_to_do(empty_database_url: str, tmp_path: Path) -> None:
    settings = {"DATABASE_URL": empty_database_url, "STORAGE_URL": tmp_path.as_uri(), "MIGRATE_ON_START": "false"}
    async with started(settings) as program:
        assert await program.ended() == 2
    assert "contact-exports migrate" in "".join(entry["text"] for entry in program.events("text"))

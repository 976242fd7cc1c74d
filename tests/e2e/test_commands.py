"""The command line: results on standard output, everything else on standard error, one-line errors."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from service.client import ClientError, ExportClient, ExportStatus, Extra, Unauthorised
from service.errors import SpaceNotFound
from tests.support import stores
from tests.support.contacts import Tenant, tenant, whole_range
from tests.support.export_checks import blocked_reads, until_reading
from tests.support.program import Program, running, started
from tests.support.s3 import S3Access
from tests.support.shell import contact_exports, run, shell
from tests.support.waiting import until_logged, until_row, until_true


async def test_creating_prints_only_the_id_or_the_key(database_url: str) -> None:
    space = await contact_exports("spaces", "create", "Eins", "--timezone", "Europe/Berlin", DATABASE_URL=database_url)
    assert (space.code, space.output) == (0, "1\n")
    key = await contact_exports("keys", "create", "--space", "1", DATABASE_URL=database_url)
    assert key.code == 0
    assert re.fullmatch(r"ce_[0-9a-f]{16}_[A-Za-z0-9_-]{43}\n", key.output)


async def test_a_key_has_all_scopes_or_those_that_are_named(
    database_url: str, connection: asyncpg.Connection, space: Tenant
) -> None:
    create = ("keys", "create", "--space", str(space.space_id))
    for options in ((), ("--scope", "exports:read", "--scope", "contacts:read")):
        assert (await contact_exports(*create, *options, DATABASE_URL=database_url)).code == 0
    stored = await connection.fetch("SELECT scopes FROM api_keys ORDER BY created_at DESC LIMIT 2")
    assert [sorted(row["scopes"]) for row in stored] == [
        ["contacts:read", "exports:read"],
        ["contacts:read", "exports:read", "exports:write"],
    ]


async def test_only_the_hash_of_a_key_is_stored(database_url: str, connection: asyncpg.Connection) -> None:
    await contact_exports("spaces", "create", "Eins", "--timezone", "UTC", DATABASE_URL=database_url)
    key = (await contact_exports("keys", "create", "--space", "1", DATABASE_URL=database_url)).output.strip()
    stored = await connection.fetchval("SELECT k::text FROM api_keys k")
    assert key not in stored
    assert key.split("_", 2)[2] not in stored


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("spaces", "create", "X", "--timezone", "Mars/Olympus"), "Mars/Olympus", 1),
        (("spaces", "create", "X", "--timezone", "Berlin"), "Use a name such as Europe/Berlin.", 1),
        (("spaces", "suspend", "99"), "no such Space. `contact-exports spaces list` shows all", 1),
        (("keys", "create", "--space", "99"), "no such Space", 1),
        (("keys", "revoke", "0123456789abcdef"), "no such key", 1),
        (("keys", "revoke", "\udcff"), "KEY_ID: is not valid UTF-8", 2),
        (("webhooks", "resend", "\udcff"), "WEBHOOK_ID: is not valid UTF-8", 2),
        (("webhooks", "set", "--space", "1", "https://a.test/\udcff"), "URL: is not valid UTF-8", 2),
        (("spaces", "create", "a\udcff", "--timezone", "UTC"), "visible character", 2),
        (("spaces", "create", "a" * 201, "--timezone", "UTC"), "200 characters", 2),
        (("spaces", "create", "X", "--timezone", "\udcff"), "TIMEZONE: is not valid UTF-8", 2),
        (("spaces", "create", "X", "--timezone", "localtime"), "localtime", 1),
        (("exports", "list", "--status", "\udcff"), "queued", 2),
        (("exports", "show", "99"), "no such export", 1),
        (("exports", "cancel", "99"), "no such export", 1),
        (("seed", "--space", "99", "--contacts", "5"), "no such Space", 1),
        (("keys", "create", "--space", "1", "--scope", "all"), "exports:write", 2),
        (("spaces", "create", "", "--timezone", "UTC"), "visible character", 2),
        (("spaces", "create", "a\tb", "--timezone", "UTC"), "control characters", 2),
        (("spaces", "suspend", "99999999999999999999"), "9223372036854775807", 2),
        (("exports", "show", "0"), "1<=x", 2),
        (("exports", "list", "--status", "nope"), "queued", 2),
        (("seed", "--space", "1", "--contacts", "5", "--from", "2024-02-01", "--to", "2024-01-01"), "--from", 2),
    ],
)
async def test_an_error_is_a_message_and_an_exit_code(
    database_url: str, arguments: tuple[str, ...], message: str, code: int
) -> None:
    ended = await contact_exports(*arguments, DATABASE_URL=database_url)
    assert (ended.code, ended.output) == (code, "")
    assert message in ended.errors
    assert "Traceback" not in ended.errors


async def test_a_state_directory_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = await contact_exports("spaces", "list", STATE_DIR=str(tmp_path / "file"))
    assert (ended.code, ended.output) == (2, "")
    assert f"STATE_DIR cannot be used: {tmp_path / 'file'}" in ended.errors
    assert "; set STATE_DIR to a directory of this user" in ended.errors
    assert "Traceback" not in ended.errors


async def test_names_cannot_break_lines_or_control_the_terminal(database_url: str, connection: asyncpg.Connection) -> None:
    name = "a\tb\nc\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}d \\ \N{LATIN SMALL LETTER O WITH DIAERESIS}"
    await connection.execute("INSERT INTO spaces (name, timezone) VALUES ($1, 'UTC')", name)
    await connection.execute(
        "INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts,"
        " request_id) VALUES (1, '2024-01-01', '2024-01-02', 'UTC', '2024-01-01Z', '2024-01-02Z', 1, $1)",
        name,
    )
    shown = r"a\tb\nc\x1b[2J\u202ed \ " + "\N{LATIN SMALL LETTER O WITH DIAERESIS}"
    spaces, exports, export = await asyncio.gather(
        contact_exports("spaces", "list", DATABASE_URL=database_url),
        contact_exports("exports", "list", DATABASE_URL=database_url),
        contact_exports("exports", "show", "1", DATABASE_URL=database_url),
    )
    assert spaces.output == f"1\t{shown}\tUTC\tactive\n"
    assert exports.output.startswith(f"1\t{shown}\tqueued\t")
    assert f"{shown}\n" in export.output
    assert "\x1b" not in export.output


async def test_any_name_is_printed_on_any_terminal(database_url: str) -> None:
    await contact_exports("spaces", "create", "\N{GREEK SMALL LETTER OMEGA}", "--timezone", "UTC", DATABASE_URL=database_url)
    for terminal in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        listed = await contact_exports("spaces", "list", DATABASE_URL=database_url, **terminal)
        assert (listed.code, listed.output[:2], listed.errors) == (0, "1\t", "")


async def test_a_result_that_cannot_be_written_is_one_line(database_url: str) -> None:
    for redirected in (">/dev/full", ">/dev/full 2>/dev/full", ">&-"):
        ended = await run(
            "sh", "-c", f"contact-exports spaces create X --timezone UTC {redirected}", DATABASE_URL=database_url
        )
        assert "Traceback" not in ended.errors
        assert len(ended.errors.splitlines()) <= 1
    ended = await run("sh", "-c", "contact-exports spaces list >/dev/full", DATABASE_URL=database_url)
    assert (ended.code, ended.errors) == (1, "The result cannot be written: No space left on device.\n")


async def test_a_misspelt_setting_is_named_and_its_value_is_not(database_url: str) -> None:
    ended = await contact_exports("spaces", "list", DATABASE_URL=database_url, DATABASE_ULR="hunter2", S3_BUCKET="hunter2")
    assert ended.code == 0
    assert "DATABASE_ULR is not a setting; did you mean DATABASE_URL?" in ended.errors
    assert "S3_BUCKET is not a setting of this service." in ended.errors
    assert "hunter2" not in ended.errors


async def test_a_store_that_cannot_be_used_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = await contact_exports("storage", "init", DATABASE_URL="postgresql:///x", STORAGE_URL=f"file://{tmp_path}/file/a")
    assert (below.code, len(below.errors.splitlines())) == (1, 1)
    assert f"Not a directory: {tmp_path}/file/a" in below.errors
    bucket = {"STORAGE_URL": "s3://bucket", "S3_ENDPOINT_URL": "http://127.0.0.1:1"}
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    dead = await contact_exports("storage", "init", **bucket, **credentials)
    assert (dead.code, len(dead.errors.splitlines())) == (1, 1)
    assert "EndpointConnectionError (127.0.0.1:1)" in dead.errors


async def test_an_unreachable_or_empty_database_is_a_one_line_error(empty_database_url: str, tmp_path: Path) -> None:
    unreachable = await contact_exports("spaces", "list", DATABASE_URL=f"postgresql:///x?host={tmp_path}")
    assert (unreachable.code, len(unreachable.errors.splitlines())) == (1, 1)
    empty = await contact_exports("spaces", "list", DATABASE_URL=empty_database_url)
    assert (empty.code, empty.errors) == (2, "Migrations are missing; run: contact-exports migrate\n")


@pytest.mark.parametrize("given", ["DATABASE_URL", "STORAGE_URL"])
async def test_serve_needs_both_database_and_storage_or_neither(given: str, tmp_path: Path) -> None:
    url = {"DATABASE_URL": "postgresql:///x", "STORAGE_URL": tmp_path.as_uri()}[given]
    ended = await contact_exports("serve", **{given: url})
    other = {"DATABASE_URL": "STORAGE_URL", "STORAGE_URL": "DATABASE_URL"}[given]
    assert (ended.code, ended.errors) == (2, f"Invalid settings:\n{other} is required\n")


@pytest.mark.parametrize("command", ["serve", "migrate"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://alice:a/hunter2@db.test/a"),
        ("DATABASE_URL", "postgresql://db.test:hunter2/a"),
        ("DATABASE_URL", "postgresql://alice:hunter2@a.test,:1/a"),
        ("STORAGE_URL", "s3://KEY:hunter2@bucket/a"),
    ],
)
async def test_an_address_that_cannot_be_read_is_one_line_without_its_value(command: str, name: str, value: str) -> None:
    good = {"DATABASE_URL": "postgresql://db.test/a", "STORAGE_URL": "s3://bucket/a"}
    ended = await contact_exports(command, **{**good, name: value})
    assert (ended.code, ended.output) == (2, "")
    assert "hunter2" not in ended.errors
    heading, line = ended.errors.splitlines()
    assert (heading, line.split()[0]) == ("Invalid settings:", name)


async def test_serve_ends_if_the_database_does_not_exist(database_url: str, tmp_path: Path) -> None:
    missing = re.sub(r"/contact_exports_test_\w+", "/no_such_database", database_url)
    ended = await contact_exports("serve", DATABASE_URL=missing, STORAGE_URL=tmp_path.as_uri(), PORT="0")
    assert ended.code == 2
    assert "The main database refuses the login; correct DATABASE_URL" in ended.errors
    assert "InvalidCatalogNameError 3D000" in ended.errors
    assert "Traceback" not in ended.errors
    both = {"DATABASE_URL": database_url, "CONTACTS_DATABASE_URL": missing}
    ended = await contact_exports("serve", **both, STORAGE_URL=tmp_path.as_uri(), PORT="0")
    assert ended.code == 2
    assert "The contacts database refuses the login; correct CONTACTS_DATABASE_URL" in ended.errors


@pytest.mark.parametrize("setting", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
async def test_a_database_that_cannot_be_reached_is_named_with_its_setting_but_no_password(setting: str) -> None:
    address = "postgresql://alice:hunter2@127.0.0.1:1/crm"
    for command in (("spaces", "list"), ("migrate",)):
        ended = await contact_exports(*command, **{"DATABASE_URL": "postgresql://db.test/a", setting: address})
        assert (ended.code, ended.output) == (1, "")
        assert f"Check {setting}" in ended.errors
        assert "127.0.0.1:1" in ended.errors
        assert "hunter2" not in ended.errors
        assert ended.errors.count("\n") == 1


async def test_migrate_says_that_it_made_empty_contacts_and_which_setting_leads_to_others(empty_database_url: str) -> None:
    first = await contact_exports("migrate", DATABASE_URL=empty_database_url)
    assert "empty tables contacts, contact_emails and comet_tokens" in first.errors
    assert "set CONTACTS_DATABASE_URL" in first.errors
    again = await contact_exports("migrate", DATABASE_URL=empty_database_url)
    assert again.errors == "up to date\n"


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "hunter2"}, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "check S3_ENDPOINT_URL: nothing responds there"),
    ],
)
async def test_a_store_that_cannot_be_used_is_named_with_the_wrong_setting_but_no_key(
    s3: S3Access, bucket: str, changes: dict[str, str], mend: str
) -> None:
    settings = {**stores.s3_settings(s3, bucket, prefix="x"), "AWS_EC2_METADATA_DISABLED": "true", **changes}
    ended = await contact_exports("storage", "init", **settings)
    assert (ended.code, ended.output) == (1, "")
    *_, message = ended.errors.splitlines()
    assert message.startswith("The store cannot be used: ")
    assert mend in message
    assert f"STORAGE_URL is s3://{bucket}/x, S3_ENDPOINT_URL is {settings['S3_ENDPOINT_URL']}." in ended.errors
    assert "hunter2" not in ended.errors
    assert s3.secret_key not in ended.errors


async def test_secrets_can_be_read_from_files(database_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text(database_url + "\n")
    assert (await contact_exports("spaces", "list", DATABASE_URL_FILE=str(secret))).code == 0
    missing = await contact_exports("spaces", "list", DATABASE_URL_FILE=str(tmp_path / "none"), LINK_SECRET="short")
    assert missing.code == 2
    assert "DATABASE_URL_FILE names a file that cannot be read" in missing.errors
    assert "LINK_SECRET" in missing.errors
    assert "short" not in missing.errors.replace("should have", "")


async def test_commands_use_the_embedded_postgres_while_serve_runs_and_while_it_does_not(short_path: Path) -> None:
    state = {"STATE_DIR": str(short_path / "state")}
    first = await contact_exports("spaces", "create", "Eins", "--timezone", "UTC", **state)
    assert first.output == "1\n"
    assert first.errors.startswith("DATABASE_URL and STORAGE_URL are not set, so this is a database of the service's own: ")
    assert str(short_path / "state") in first.errors
    async with running(state) as program:
        second = await contact_exports("spaces", "create", "Zwei", "--timezone", "UTC", **state)
        assert second.output == "2\n"
        for redirected in ("2>/dev/full", "2>&-"):  # with a note and a warning that are lost
            ended = await run("sh", "-c", f"contact-exports spaces list {redirected}", EXPORT_SLOT="1", **state)
            assert (ended.code, ended.output) == (0, "1\tEins\tUTC\tactive\n2\tZwei\tUTC\tactive\n")
        printed = [entry["text"] for entry in program.events("text")]
        (psql,) = [
            line.removesuffix(" connects to the database\n") for line in printed if "connects to the database" in line
        ]
        assert (
            await shell(f"{psql} --no-align --tuples-only --command 'SELECT name FROM spaces ORDER BY id'", state)
            == "Eins\nZwei\n"
        )
        async with started(state) as other:
            await until_logged_text(other, f"serve (process {program.pid}) uses the Postgres in {short_path / 'state'}")
        health = await contact_exports("health", PORT=program.address.rpartition(":")[2])
        assert health.code == 0
        assert await program.end() == 0
    listed = await contact_exports("spaces", "list", **state)
    assert listed.output == "1\tEins\tUTC\tactive\n2\tZwei\tUTC\tactive\n"
    assert (await contact_exports("health", PORT="1")).code == 1


async def until_logged_text(program: Program, text: str) -> None:
    """Wait until the program has printed this text outside its log."""
    await until_true(lambda: any(text in entry["text"] for entry in program.events("text")))


async def test_operators_list_and_show_exports(database_url: str, space: Tenant, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    async with (
        running({"DATABASE_URL": database_url, "STORAGE_URL": (tmp_path / "files").as_uri()}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        await client.wait(await client.create(whole_range()))
    listed = await contact_exports("exports", "list", "--status", "completed", DATABASE_URL=database_url)
    assert re.fullmatch(r"1\tTests\tcompleted\t0:00:\d\d\t0 contacts in \d+ bytes\n", listed.output)
    assert (await contact_exports("exports", "list", "--status", "failed", DATABASE_URL=database_url)).output == ""
    shown = await contact_exports("exports", "show", "1", DATABASE_URL=database_url)
    assert "start_date             2024-01-01 00:00:00" in shown.output
    assert "outcome                completed" in shown.output


async def test_operators_cancel_exports(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    async with (
        running({"DATABASE_URL": database_url, "STORAGE_URL": (tmp_path / "files").as_uri()}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        export_id = str(await client.create(whole_range()))
        await client.wait(int(export_id))
        removed = await contact_exports("exports", "cancel", export_id, DATABASE_URL=database_url)
        assert (removed.code, removed.output, removed.errors) == (0, "expired\n", "a running service will delete the file\n")
        await until_row(connection, "SELECT 1 FROM export_jobs WHERE file_deleted_at IS NOT NULL")
    again = await contact_exports("exports", "cancel", export_id, DATABASE_URL=database_url)
    assert (again.code, again.output, again.errors) == (0, "expired\n", "the export had already ended\n")


async def test_a_deleted_space_leaves_nothing_and_its_export_that_runs_elsewhere_ends(
    database_url: str, connection: asyncpg.Connection, space: Tenant, tmp_path: Path
) -> None:
    async with stores.directory_store(tmp_path / "files") as files:
        settings = {"DATABASE_URL": database_url, "LEASE_SECONDS": "2", **files.settings}
        other = await tenant(database_url)
        async with running(settings) as program, ExportClient(program.address, space.key) as client:
            await client.wait(await client.create(whole_range()))
            async with blocked_reads(database_url):
                await client.create(whole_range(Extra.COMET_TOKENS))
                await until_reading(connection)
                asked = await contact_exports("spaces", "delete", str(space.space_id), **settings)
                assert (asked.code, asked.output) == (1, "")
                assert f"Space {space.space_id} 'Tests': keys: 1, exports: 2, running: 1\n" in asked.errors
                assert await connection.fetchval("SELECT count(*) FROM spaces WHERE subscription_active") == 2
                deleted = await contact_exports("spaces", "delete", str(space.space_id), "--yes", **settings)
            assert deleted.code == 0, deleted.errors
            # The process that runs the export may clean up its attempt before the command does.
            steps = [line for line in deleted.output.splitlines() if line != "attempts cleaned up: 1"]
            assert steps == [
                "keys revoked: 1",
                "running exports cancelled: 1",
                "files deleted: 1",
                "attempts that ended just now: waiting for their last calls to the store: 1",
                "exports deleted: 2",
                "Space deleted: 1",
            ]
            again = await contact_exports("spaces", "delete", str(space.space_id), "--yes", **settings)
            assert (again.code, again.output, again.errors) == (1, "", f"{SpaceNotFound.message}\n")
            await until_logged(program, "claim_lost")
            with pytest.raises(Unauthorised):
                await client.create(whole_range())
            async with ExportClient(program.address, other.key) as others:
                await others.wait(await others.create(whole_range()))
            assert await program.end() == 0
        assert [name.split("/")[0] for name in await files.objects()] == [str(other.space_id)]
        assert await files.uploads() == []


async def test_a_suspended_space_gets_403_until_it_is_active_again(database_url: str, space: Tenant, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    async with (
        running({"DATABASE_URL": database_url, "STORAGE_URL": (tmp_path / "files").as_uri()}) as program,
        ExportClient(program.address, space.key) as client,
    ):
        export_id = await client.create(whole_range())
        await contact_exports("spaces", "suspend", str(space.space_id), DATABASE_URL=database_url)
        with pytest.raises(ClientError, match="403"):
            await client.wait(export_id)
        await contact_exports("spaces", "activate", str(space.space_id), DATABASE_URL=database_url)
        await asyncio.sleep(1)  # A refusal holds for a second.
        async with asyncio.timeout(20):
            assert (await client.wait(export_id)).status is ExportStatus.COMPLETED

"""The command `contact-exports export` against the real service: what it writes, prints and returns."""

import csv
import gzip
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.contacts import add_contacts, expected_lines, lines_of
from tests.support.deployment import CONTACTS, Deployment, deployment
from tests.support.shell import Ended, contact_exports, run

YEAR = ("--from", "2024-01-01", "--to", "2024-12-31")
UNKNOWN_KEY = "ce_0123456789abcdef_" + "x" * 43


@pytest.fixture(scope="module")
def service(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running service with contacts."""
    with deployment(postgres_server, template_database, tmp_path_factory.mktemp("files")) as running:
        yield running


@pytest.fixture
async def database(service: Deployment) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of the service."""
    connection = await asyncpg.connect(service.database_url)
    yield connection
    await connection.close()


def sentence(ended: Ended, code: int) -> str:
    """The last line on standard error of a command that ended with this code and without a traceback."""
    assert ended.code == code, ended
    assert "Traceback" not in ended.errors
    return ended.errors.splitlines()[-1]


def content(directory: Path) -> list[str]:
    """The names in a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


# Forms ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def expected(service: Deployment, database: asyncpg.Connection) -> list[dict[str, Any]]:
    """The contacts of the Space, read by plain queries."""
    return await expected_lines(database, service.space.space_id, tokens=True, emails=True)


async def test_the_suffix_of_the_target_chooses_its_form(
    service: Deployment, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    packed, lines, table = (tmp_path / name for name in ("a.ndjson.gz", "a.NDJSON", "a.csv"))
    for target in (packed, lines, table):
        ended = await service.export(*YEAR, "--tokens", "--emails", "-o", str(target))
        assert (ended.code, ended.output) == (0, "")
        assert f"{target}: {CONTACTS:,} contacts" in sentence(ended, 0)
    assert lines_of(packed) == expected
    assert lines.read_bytes() == gzip.decompress(packed.read_bytes())
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{**row, "id": int(row["id"])} for row in rows] == [
        {
            **{name: value if value is not None else "" for name, value in contact.items()},
            "comet_tokens": json.dumps(contact["comet_tokens"], separators=(",", ":")),
            "emails": json.dumps(contact["emails"], separators=(",", ":")),
        }
        for contact in expected
    ]
    assert content(tmp_path) == ["a.NDJSON", "a.csv", "a.ndjson.gz"]


async def test_standard_output_gets_lines_and_nothing_else(service: Deployment, expected: list[dict[str, Any]]) -> None:
    ended = await service.export(*YEAR, "--tokens", "--emails", "-o", "-", "--json")
    assert [json.loads(line) for line in ended.output.splitlines()] == expected
    result = json.loads(sentence(ended, 0))
    assert (result["path"], result["rows"]) == (None, CONTACTS)


async def test_json_describes_the_export_that_was_delivered(service: Deployment, tmp_path: Path) -> None:
    target = tmp_path / "file"
    times = ("--from", "2024-03-01T01:00:00", "--to", "2024-03-01 01:00:09")
    ended = await service.export(*times, "--format", "ndjson.gz", "-o", str(target), "--json", "-q")
    assert (ended.code, ended.errors) == (0, "")
    result = json.loads(ended.output)
    assert result["window"] == {"from": "2024-03-01T00:00:00Z", "to": "2024-03-01T00:00:10Z", "timezone": "Europe/Berlin"}
    assert (result["rows"], result["new_rows"], result["resumed"], result["fresh_links"]) == (9, 9, 0, 0)
    assert len(lines_of(target)) == 9
    assert result["file_size"] == target.stat().st_size
    again = await service.export("--id", str(result["export_id"]), "-o", str(tmp_path / "again.ndjson.gz"))
    assert again.code == 0
    assert (tmp_path / "again.ndjson.gz").read_bytes() == target.read_bytes()


async def test_the_mode_of_a_new_file_follows_the_umask(service: Deployment, tmp_path: Path) -> None:
    command = f"umask 027 && contact-exports export --from 2024-01-01 --to 2024-01-01 -o {tmp_path / 'a.csv'}"
    assert (await run("sh", "-c", command, **service.settings)).code == 0
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o640


# Mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((*YEAR, "-o", "a.txt"), "none of the suffixes"),
        ((*YEAR, "--format", "xml", "-o", "a"), "'ndjson.gz', 'ndjson', 'csv'"),
        (("--from", "2024-01-01", "-o", "a.csv"), "Give --from and --to"),
        (("--from", "2024-02-30", "--to", "2024-03-01", "-o", "a.csv"), "'2024-02-30' is not a day"),
        (("--from", "2024-01-01T00:00:00Z", "--to", "2024-03-01", "-o", "a.csv"), "without an offset"),
        ((*YEAR, "--overlap", "1h", "-o", "a.csv"), "--overlap needs --since-last"),
        ((*YEAR, "--since-last", "s", "--overlap", "1 hour", "-o", "a.csv"), "not a duration such as"),
        (("--since-last", "s", "--overlap", "999999d", "-o", "a.csv"), "'999999d' is longer than 36500d"),
        ((*YEAR, "--since-last", "s", "-o", "a.csv"), "cannot be combined with --to"),
        (("--id", "1", "--tokens", "-o", "a.csv"), "--id names an existing export"),
        ((*YEAR,), "Missing option '-o'"),
        ((*YEAR, "--url", "ftp://a", "-o", "a.csv"), "must be http://host"),
        ((*YEAR, "--url", "https://alice:hunter2@a", "-o", "a.csv"), "must be http://host"),
        ((*YEAR, "--key-file", "/none", "-o", "a.csv"), "The key file /none cannot be read (No such file or directory)"),
        ((*YEAR, "--key-file", "/dev/null", "-o", "a.csv"), "The API key is empty"),
    ],
)
async def test_a_mistake_in_the_options_is_explained(service: Deployment, arguments: tuple[str, ...], part: str) -> None:
    message = sentence(await service.export(*arguments), 2)
    assert part in message
    assert "hunter2" not in message


async def test_without_a_key_the_command_names_the_ways_to_give_one(service: Deployment) -> None:
    ended = await service.export(*YEAR, "-o", "a.csv", CONTACT_EXPORTS_API_KEY="")
    assert "set CONTACT_EXPORTS_API_KEY, or give --key-file" in sentence(ended, 2)


async def test_the_proxy_of_the_environment_is_used(service: Deployment, tmp_path: Path) -> None:
    host = service.program.address.removeprefix("http://")
    dead = {"HTTP_PROXY": "127.0.0.1:1"}
    ended = await service.export(*YEAR, "-o", str(tmp_path / "a.csv"), **dead)
    assert sentence(ended, 5) == f"The proxy for {host} cannot be reached (Connection refused); check HTTPS_PROXY."
    assert (await service.export(*YEAR, "-o", str(tmp_path / "a.csv"), **dead, NO_PROXY="127.0.0.1")).code == 0


async def test_the_key_can_be_in_a_file(service: Deployment, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{service.space.key}\n")
    settings = {"CONTACT_EXPORTS_API_KEY": "", "CONTACT_EXPORTS_API_KEY_FILE": str(key)}
    assert (await service.export(*YEAR, "-o", str(tmp_path / "a.csv"), **settings)).code == 0
    option = ("--key-file", str(key), "-o", str(tmp_path / "b.csv"))
    assert (await service.export(*YEAR, *option, CONTACT_EXPORTS_API_KEY=UNKNOWN_KEY)).code == 0


async def test_a_wrong_key_is_unauthorised(service: Deployment, tmp_path: Path) -> None:
    ended = await service.export(*YEAR, "-o", str(tmp_path / "a.csv"), "--json", CONTACT_EXPORTS_API_KEY=UNKNOWN_KEY)
    assert sentence(ended, 3) == "The service refused the request with status 401: Missing or invalid API key."
    assert json.loads(ended.output) == {"export_id": None, "error": sentence(ended, 3), "exit_code": 3}
    assert content(tmp_path) == []


async def test_a_key_without_the_scope_is_refused(service: Deployment, tmp_path: Path) -> None:
    arguments = ("keys", "create", "--space", str(service.space.space_id), "--scope", "exports:read")
    created = await contact_exports(*arguments, DATABASE_URL=service.database_url)
    ended = await service.export(*YEAR, "-o", str(tmp_path / "a.csv"), CONTACT_EXPORTS_API_KEY=created.output.strip())
    assert "status 403: The API key does not have the scope" in sentence(ended, 4)


async def test_a_refused_request_is_explained_field_by_field(service: Deployment, tmp_path: Path) -> None:
    dates = ("--from", "2024-01-02", "--to", "2024-01-01")
    ended = await service.export(*dates, "-o", str(tmp_path / "a.csv"), "--json")
    assert sentence(ended, 4) == "The service refused --to: end_date must be after start_date."
    assert json.loads(ended.output)["fields"] == {"end_date": ["end_date must be after start_date."]}


async def test_an_unknown_export_is_refused(service: Deployment, tmp_path: Path) -> None:
    ended = await service.export("--id", "987654321", "-o", str(tmp_path / "a.csv"))
    assert "status 404: Export not found." in sentence(ended, 4)


# Targets -------------------------------------------------------------------------------------------------------------


async def test_an_existing_target_is_only_replaced_by_force(
    service: Deployment, database: asyncpg.Connection, tmp_path: Path
) -> None:
    target, link = tmp_path / "a.csv", tmp_path / "link.csv"
    target.write_text("mine")
    link.symlink_to(target)
    exports = await database.fetchval("SELECT count(*) FROM export_jobs")
    assert (
        sentence(await service.export(*YEAR, "-o", str(link)), 10) == f"{target} already exists. Give --force to replace it."
    )
    assert target.read_text() == "mine"
    assert await database.fetchval("SELECT count(*) FROM export_jobs") == exports, "found before an export was created"
    assert (await service.export(*YEAR, "--force", "-o", str(link))).code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("id,email")
    assert content(tmp_path) == ["a.csv", "link.csv"]


async def test_a_target_that_cannot_be_written_is_explained(service: Deployment, tmp_path: Path) -> None:
    (tmp_path / "directory.csv").mkdir()
    os.mkfifo(tmp_path / "fifo.csv")
    for target, reason in {
        tmp_path / "none" / "a.csv": "does not exist",
        tmp_path / "directory.csv": "is a directory",
        tmp_path / "fifo.csv": "is not a regular file",
        Path("/proc/a.csv"): "The directory of /proc/a.csv",
    }.items():
        assert reason in sentence(await service.export(*YEAR, "--force", "-o", str(target)), 10)


async def test_a_full_disk_is_explained_and_leaves_nothing(service: Deployment, tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    options = "--from 2024-01-01 --to 2024-12-31 --tokens"
    limited = f"ulimit -f 16; exec contact-exports export {options} -o {target}"
    ended = await run("sh", "-c", limited, **service.settings)
    assert sentence(ended, 10) == f"There is no space left for {target} (File too large)."
    assert content(tmp_path) == []
    full = await run("sh", "-c", f"exec contact-exports export {options} -o - >/dev/full", **service.settings)
    assert sentence(full, 10) == "Standard output cannot be written (No space left on device)."


async def test_a_closed_pipe_ends_the_command_with_the_usual_code(service: Deployment, tmp_path: Path) -> None:
    command = "contact-exports export --from 2024-01-01 --to 2024-12-31 -o - 2>errors; echo $? >code"
    ended = await run("sh", "-c", f"cd {tmp_path}; ({command}) | head -n 1", **service.settings)
    assert json.loads(ended.output)["id"] > 0
    assert (tmp_path / "code").read_text() == "141\n"
    assert "Traceback" not in (tmp_path / "errors").read_text()


# Follow --------------------------------------------------------------------------------------------------------------


async def test_since_last_delivers_each_contact_once(
    service: Deployment, database: asyncpg.Connection, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")

    async def export(name: str, *options: str) -> list[int]:
        target = tmp_path / name
        ended = await service.export("--since-last", state, *options, "-o", str(target), CONTACT_EXPORTS_API_KEY=key)
        assert ended.code == 0, ended.errors
        return [line["id"] for line in lines_of(target)]

    arguments = ("keys", "create", "--space", str(service.other.space_id))
    key = (await contact_exports(*arguments, DATABASE_URL=service.database_url)).output.strip()
    insert = "INSERT INTO contacts (space_id, name) VALUES ($1, 'new') RETURNING id"
    missing = await service.export("--since-last", state, "-o", str(tmp_path / "x.csv"))
    assert "does not exist yet; give --from" in sentence(missing, 11)
    before = await database.fetchval(insert, service.other.space_id)
    late = await asyncpg.connect(service.database_url)
    await late.execute("BEGIN")
    hidden = await late.fetchval(insert, service.other.space_id)
    seen = await database.fetchval(insert, service.other.space_id)
    assert await export("1.ndjson.gz", "--from", "2024-01-01") == [before, seen]
    await late.execute("COMMIT")
    await late.close()
    after = await database.fetchval(insert, service.other.space_id)
    assert await export("2.ndjson.gz", "--from", "2024-01-01") == [hidden, after]
    assert await export("3.ndjson.gz", "--overlap", "1d") == []
    await add_contacts(database, service.other.space_id, 3)
    assert await export("4.ndjson.gz") == [], "created long before the last export, so only an overlap finds them"
    assert content(tmp_path) == ["1.ndjson.gz", "2.ndjson.gz", "3.ndjson.gz", "4.ndjson.gz", "state"]


async def test_since_last_notices_a_changed_timezone_and_leaves_no_gap(
    service: Deployment, database: asyncpg.Connection, tmp_path: Path
) -> None:
    created = await contact_exports(
        "spaces", "create", "Moving", "--timezone", "Europe/Berlin", DATABASE_URL=service.database_url
    )
    space = created.output.strip()
    key = (await contact_exports("keys", "create", "--space", space, DATABASE_URL=service.database_url)).output.strip()
    options = ("--since-last", str(tmp_path / "state"), "--from", "2024-01-01")
    insert = "INSERT INTO contacts (space_id, name) VALUES ($1, 'new') RETURNING id"
    await service.export(*options, "-o", str(tmp_path / "1.ndjson.gz"), CONTACT_EXPORTS_API_KEY=key)
    new = await database.fetchval(insert, int(space))
    # The same local time is six hours later in New York, so the new contact would be missed.
    await database.execute("UPDATE spaces SET timezone = 'America/New_York' WHERE id = $1", int(space))
    ended = await service.export(*options, "-o", str(tmp_path / "2.ndjson.gz"), CONTACT_EXPORTS_API_KEY=key)
    assert "The timezone of the Space is now America/New_York, so the export is repeated." in ended.errors
    assert [line["id"] for line in lines_of(tmp_path / "2.ndjson.gz")] == [new]


async def test_a_state_that_could_not_be_stored_is_found_before_the_export(service: Deployment, tmp_path: Path) -> None:
    options = ("--since-last", str(tmp_path / "none" / "state"), "--from", "2024-01-01")
    ended = await service.export(*options, "-o", str(tmp_path / "a.csv"))
    assert "does not exist or is not writable" in sentence(ended, 11)
    assert content(tmp_path) == []


async def test_a_state_of_another_space_or_of_something_else_is_refused(service: Deployment, tmp_path: Path) -> None:
    state, target = tmp_path / "state", str(tmp_path / "a.csv")
    first = await service.export("--since-last", str(state), "--from", "2024-01-01", "-o", str(tmp_path / "first.csv"))
    assert first.code == 0
    stored = state.read_text()
    key = service.other.key
    other = await service.export("--since-last", str(state), "-o", target, CONTACT_EXPORTS_API_KEY=key)
    assert f"{state} follows another Space: this key has no export" in sentence(other, 11)
    for text in ("", "{}", "[1]", stored[:-20], stored.replace('"integers": "e', '"integers": "f')):
        state.write_text(text)
        ended = await service.export("--since-last", str(state), "-o", target)
        assert sentence(ended, 11) == f"{state} is not a state file of --since-last."
    state.write_text(stored.replace('"version": 1', '"version": 2'))
    ended = await service.export("--since-last", str(state), "-o", target)
    assert sentence(ended, 11) == f"{state} was written by another version of this command."
    assert content(tmp_path) == ["first.csv", "state"]


async def test_without_a_known_end_since_last_needs_an_overlap(
    service: Deployment, database: asyncpg.Connection, tmp_path: Path
) -> None:
    options = ("--since-last", str(tmp_path / "state"), "--from", "2024-01-01")
    await database.execute(
        """CREATE FUNCTION unknown_end() RETURNS trigger LANGUAGE plpgsql
           AS 'BEGIN NEW.complete_until := NULL; RETURN NEW; END';
           CREATE TRIGGER unknown_end BEFORE UPDATE ON export_jobs FOR EACH ROW EXECUTE FUNCTION unknown_end()"""
    )
    try:
        refused = await service.export(*options, "-o", str(tmp_path / "a.csv"))
        assert "give --overlap with the longest delay" in sentence(refused, 11)
        assert content(tmp_path) == []
        assert (await service.export(*options, "--overlap", "15m", "-o", str(tmp_path / "a.csv"))).code == 0
        again = await service.export(*options, "--overlap", "15m", "-o", str(tmp_path / "b.csv"))
        assert "b.csv: 0 contacts" in sentence(again, 0)
    finally:
        await database.execute("DROP FUNCTION unknown_end CASCADE")

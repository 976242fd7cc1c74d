"""Postgres and files in STATE_DIR, for commands without DATABASE_URL and STORAGE_URL."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from service.commands.output import print_note
from service.embedded import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres, find_binaries, psql_path
from service.settings import SettingsError

_OTHER_COMMAND_SECONDS = 60.0


def files_directory(state: Path) -> Path:
    """Create STATE_DIR for this user and the directory of the files in it; return the latter.

    Raises SettingsError if STATE_DIR cannot be created or written to, or if another user may have prepared it.
    """
    files = state / "files"
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(state):
            raise SettingsError(
                f"STATE_DIR cannot be used: {state} belongs to another user, or other users may write to it;"
                " set STATE_DIR to a directory of this user"
            )
        files.mkdir(exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"STATE_DIR cannot be used: {error.filename}: {error.strerror}; set STATE_DIR to a directory of this user"
        ) from None
    return files


def _is_ours(state: Path) -> bool:
    """False if other users may create files next to `state`, and `state` is not a directory of this user alone."""
    if not state.absolute().parent.stat().st_mode & stat.S_IWOTH:
        return True
    found = state.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextmanager
def embedded_postgres(state: Path, *, alone: bool) -> Iterator[EmbeddedPostgres]:
    """Run Postgres in STATE_DIR inside the block, or join the one of another command.

    `alone` waits up to 60 s until no other command owns it, says at once which one does, and shows how psql connects.
    """
    try:
        binaries = find_binaries()
    except EmbeddedError as error:
        raise SettingsError(f"DATABASE_URL and STORAGE_URL are required. To try the service without them: {error}") from None
    with EmbeddedPostgres(state / "postgres", used_by=click.get_current_context().command_path) as postgres:
        if alone and postgres.joined:
            _wait_for_other_command(postgres, state)
        print_note(
            "DATABASE_URL and STORAGE_URL are not set, so this is a database of the service's own:"
            f" using Postgres {postgres.version} and files in {state}"
        )
        if alone:
            print_note(f"{psql_path(binaries) or 'psql'} '{postgres.dsn()}' connects to the database")
        yield postgres


def _wait_for_other_command(postgres: EmbeddedPostgres, state: Path) -> None:
    deadline = time.monotonic() + _OTHER_COMMAND_SECONDS
    print_note(f"{postgres.user} uses the Postgres in {state}; waiting up to {_OTHER_COMMAND_SECONDS:.0f} s")
    while postgres.joined:
        if time.monotonic() > deadline:
            raise EmbeddedError(f"{postgres.user} still uses the Postgres in {state}; stop it, or set another STATE_DIR")
        time.sleep(0.5)
        postgres.stop()
        postgres.start()

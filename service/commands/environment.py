"""What every command shares: settings, the embedded Postgres if no database is set, and one-line errors."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
from pydantic import SecretStr

from service import logs
from service.embedded import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres, find_binaries
from service.errors import SchemaMismatch, ServiceError
from service.postgres.migrate import check_schema, migrate
from service.postgres.pool import Database
from service.postgres.sample_contacts import SampleContacts, open_sample_contacts
from service.process.resources import open_database, open_store
from service.settings import Settings, SettingsError, load
from service.storage import ObjectStore

EXIT_FAILED = 1
EXIT_FIX_BY_HAND = 2
"""The settings, the listen address or the database schema must be fixed by hand."""

_OTHER_COMMAND_SECONDS = 60.0
P = ParamSpec("P")
T = TypeVar("T")


def command(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a coroutine as a command. Its errors become one line on standard error and an exit code."""

    @wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return asyncio.run(work(*arguments, **options))
        except SettingsError as error:
            _exit(f"Invalid settings:\n{error}", EXIT_FIX_BY_HAND)
        except EmbeddedError as error:
            _exit(str(error), EXIT_FIX_BY_HAND)
        except ServiceError as error:
            message = f"{error.message} ({error.detail})" if error.detail else error.message
            fix_by_hand = error.code in ("schema_mismatch", "cannot_listen", "login_refused", "store_owned_elsewhere")
            _exit(message, EXIT_FIX_BY_HAND if fix_by_hand else EXIT_FAILED)
        except KeyboardInterrupt:
            _exit("interrupted", 130)

    return run


@contextmanager
def settings(*, alone: bool = False) -> Iterator[Settings]:
    """Read the settings. Without DATABASE_URL and STORAGE_URL, start the embedded Postgres and use STATE_DIR.

    The embedded Postgres stops with the command that started it. `alone` waits up to 60 s until no other command owns it,
    so that this command does.
    """
    given = load()
    logs.set_up(level=given.log_level, form=given.log_format)
    if given.database_url is not None or given.storage_url is not None:
        yield given
        return
    files = given.state_dir / "files"
    try:
        files.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"STATE_DIR cannot be used: {files}: {error.strerror}") from None
    with _embedded(given.state_dir, alone=alone) as postgres:
        click.echo(
            f"DATABASE_URL and STORAGE_URL are not set: using Postgres {postgres.version} and files in {given.state_dir}",
            err=True,
        )
        addresses = {"database_url": SecretStr(postgres.dsn()), "storage_url": files.absolute().as_uri()}
        yield given.model_copy(update=addresses)


@asynccontextmanager
async def database() -> AsyncIterator[Database]:
    """Open the main database. Raises SchemaMismatch if migrations are missing; an embedded database is migrated."""
    with settings() as given:
        async with _open_migrated(given) as opened:
            yield opened


@asynccontextmanager
async def database_and_store() -> AsyncIterator[tuple[Settings, Database, ObjectStore]]:
    """Open the main database as `database` does, and the file storage."""
    with settings() as given:
        async with open_store(given) as store, _open_migrated(given) as opened:
            yield given, opened, store


@asynccontextmanager
async def _open_migrated(given: Settings) -> AsyncIterator[Database]:
    own_contacts = given.contacts_database_url is None
    if not await check_schema(given.direct_dsn, own_contacts=own_contacts):
        if load().database_url is not None:
            raise SchemaMismatch("Migrations are missing; run: contact-exports migrate")
        await migrate(given.direct_dsn, own_contacts=own_contacts)
    async with open_database(given) as opened:
        yield opened


@asynccontextmanager
async def sample_contacts() -> AsyncIterator[SampleContacts]:
    """Sample contacts in the database that has the contacts."""
    with settings() as given:
        async with open_sample_contacts(given.contacts_dsn) as opened:
            yield opened


@contextmanager
def _embedded(state: Path, *, alone: bool) -> Iterator[EmbeddedPostgres]:
    try:
        find_binaries()
    except EmbeddedError as error:
        raise SettingsError(f"DATABASE_URL and STORAGE_URL are required. To try the service without them: {error}") from None
    with EmbeddedPostgres(state / "postgres") as postgres:
        deadline = time.monotonic() + _OTHER_COMMAND_SECONDS
        while alone and postgres.joined:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"another command uses the Postgres in {state}; stop it first")
            time.sleep(0.5)
            postgres.stop()
            postgres.start()
        yield postgres


def _exit(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)

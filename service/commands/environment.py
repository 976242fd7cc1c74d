"""What every command shares: settings, the embedded Postgres if no database is set, and one-line errors."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any, NoReturn, ParamSpec, TypeVar

import click
import structlog
from pydantic import SecretStr

from service import logs
from service.commands.output import print_note, visible
from service.commands.state import embedded_postgres, files_directory
from service.embedded import EmbeddedError
from service.errors import (
    CannotListen,
    DatabaseRefused,
    DatabaseUnavailable,
    LoginRefused,
    RightMissing,
    SchemaMismatch,
    ServiceError,
    StoreOwnedElsewhere,
)
from service.home_directory import ignore_foreign_home
from service.postgres.migrate import check_schema, migrate
from service.postgres.pool import Database
from service.postgres.sample_contacts import SampleContacts, open_sample_contacts
from service.process.resources import open_database, open_store
from service.process.startup import CONTACTS_REFUSED, MAIN_REFUSED
from service.setting_source import load, misspelt
from service.settings import Settings, SettingsError
from service.storage import ObjectStore

EXIT_FAILED = 1
EXIT_FIX_BY_HAND = 2
"""A person must fix settings, the listen address, the login, rights or schema of a database, or the owner of the files."""
_FIXED_BY_HAND = (SchemaMismatch, CannotListen, LoginRefused, RightMissing, StoreOwnedElsewhere)

log = structlog.get_logger()
P = ParamSpec("P")
T = TypeVar("T")


def command(work: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Run a coroutine as a command. Its errors become one line on standard error and an exit code."""

    @wraps(work)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        _check_text(options)
        try:
            return asyncio.run(work(*arguments, **options))
        except SettingsError as error:
            _exit(f"Invalid settings:\n{error}", EXIT_FIX_BY_HAND)
        except EmbeddedError as error:
            _exit(str(error), EXIT_FIX_BY_HAND)
        except ServiceError as error:
            message = f"{error.message} ({error.detail})" if error.detail else error.message
            if isinstance(error, DatabaseUnavailable):
                message += _main_setting()
            _exit(message, EXIT_FIX_BY_HAND if isinstance(error, _FIXED_BY_HAND) else EXIT_FAILED)
        except KeyboardInterrupt:
            _exit("interrupted", 130)

    return run


def _check_text(options: Mapping[str, object]) -> None:
    for name, value in options.items():
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise click.BadParameter("is not valid UTF-8", param_hint=name.upper()) from None


@contextmanager
def settings(*, alone: bool = False) -> Iterator[Settings]:
    """Read the settings. Without DATABASE_URL and STORAGE_URL, start the embedded Postgres and use STATE_DIR.

    The embedded Postgres stops with the command that started it. `alone`: no other command may own it.
    """
    given = load()
    ignore_foreign_home()
    logs.set_up(level=given.log_level, form=given.log_format)
    for sentence in misspelt():
        log.warning("unknown_setting", detail=sentence)
    if given.database_url is not None or given.storage_url is not None:
        with _refusals(MAIN_REFUSED):
            yield given
        return
    files = files_directory(given.state_dir)
    with embedded_postgres(given.state_dir, alone=alone) as postgres:
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
    with settings() as given, _refusals(CONTACTS_REFUSED if given.contacts_database_url else MAIN_REFUSED):
        async with open_sample_contacts(given.contacts_dsn) as opened:
            yield opened


@contextmanager
def _refusals(message: str) -> Iterator[None]:
    """Raises LoginRefused with this message if a database refuses the login."""
    try:
        yield
    except DatabaseRefused as error:
        raise LoginRefused(message, detail=error.detail) from error


def _main_setting() -> str:
    """The setting with the address that a command needed."""
    given = load()
    if given.database_url is None:
        return ""
    return f" Check {'DATABASE_URL' if given.database_direct_url is None else 'DATABASE_DIRECT_URL (or DATABASE_URL)'}."


def _exit(message: str, code: int) -> NoReturn:
    print_note("\n".join(visible(line) for line in message.splitlines()))
    sys.exit(code)

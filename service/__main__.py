"""The command line. The only module that makes settings."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import click

from service import logs
from service import main as program
from service.callers import Callers
from service.demo import demo
from service.errors import ServiceError
from service.model import Scope
from service.postgres.callers import CallerStore
from service.postgres.migrate import migrate as apply_migrations
from service.settings import DatabaseSettings, Settings, SettingsError, StorageSettings, load

S = TypeVar("S", bound=DatabaseSettings)
EXIT_SETTINGS = 2
"""Exit code where the settings, the address or the database's schema need a person."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="contact-exports")
def main() -> None:
    """Contact exports: one HTTP call in, one gzipped NDJSON file out.

    Settings come from the environment; the README lists them.
    """


@main.command()
def serve() -> None:
    """Run the service: HTTP API and job runner."""
    settings = _load(Settings)
    logs.set_up(level=settings.log_level, form=settings.log_format)

    async def serving() -> None:
        stop = program.Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.ask)
        await program.run(settings, stop)

    _run(serving())


@main.command()
def migrate() -> None:
    """Bring the main database's schema up to date."""
    settings = _load(DatabaseSettings)
    own_contacts = settings.contacts_database_url is None
    applied = _run(apply_migrations(settings.direct_dsn, own_contacts=own_contacts))
    click.echo("\n".join(f"applied {name}" for name in applied) or "up to date")


@main.group()
def storage() -> None:
    """The object store."""


@storage.command("init")
def storage_init() -> None:
    """Create the bucket or directory if it is missing, and check that files can be written."""
    settings = _load(StorageSettings)

    async def create() -> None:
        async with program.open_store(settings) as store:
            await store.create()
            await store.probe()

    _run(create())
    click.echo("ready")


@main.group()
def spaces() -> None:
    """Spaces, the tenants."""


@spaces.command("create")
@click.argument("name")
@click.option("--timezone", required=True, help="IANA name, such as Europe/Berlin.")
def spaces_create(name: str, timezone: str) -> None:
    """Create a Space and print its id."""

    async def create() -> int:
        async with _callers() as (callers, _):
            return await callers.create_space(name, timezone)

    click.echo(_run(create()))


@spaces.command("list")
def spaces_list() -> None:
    """Print all Spaces: id, name, timezone, subscription."""

    async def show() -> None:
        async with _callers() as (_, store):
            for space in await store.spaces():
                state = "active" if space.subscription_active else "inactive"
                click.echo(f"{space.space_id}\t{space.name}\t{space.timezone}\t{state}")

    _run(show())


@main.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.argument("space_id", type=int)
@click.option("--scope", "scopes", multiple=True, type=click.Choice(list(Scope)), help="Repeats; default: all.")
@click.option("--days", type=click.IntRange(min=1), help="Days until the key expires; default: never.")
def keys_create(space_id: int, scopes: tuple[Scope, ...], days: int | None) -> None:
    """Create a key of a Space and print it: it is shown only now."""

    async def create() -> str:
        async with _callers() as (callers, _):
            return await callers.create_key(space_id, scopes or Scope, timedelta(days=days) if days else None)

    click.echo(_run(create()))


@keys.command("list")
@click.argument("space_id", type=int)
def keys_list(space_id: int) -> None:
    """Print the keys of a Space: public part, scopes, state."""

    async def show() -> None:
        async with _callers() as (_, store):
            for key in await store.keys(space_id):
                state = f"revoked {key.revoked_at}" if key.revoked_at else f"expires {key.expires_at or 'never'}"
                click.echo(f"{key.key_id}\t{','.join(key.scopes)}\t{state}")

    _run(show())


@keys.command("revoke")
@click.argument("key_id")
def keys_revoke(key_id: str) -> None:
    """Refuse a key from now on, named by its public part or by itself."""

    async def revoke() -> bool:
        async with _callers() as (callers, _):
            return await callers.revoke_key(key_id.removeprefix("ce_").partition("_")[0])

    if not _run(revoke()):
        raise click.ClickException("there is no such key")
    click.echo("revoked")


@asynccontextmanager
async def _callers() -> AsyncIterator[tuple[Callers, CallerStore]]:
    async with program.open_database(_load(DatabaseSettings)) as database:
        store = CallerStore(database)
        yield Callers(store), store


def _load(kind: type[S]) -> S:
    try:
        return load(kind)
    except SettingsError as error:
        click.echo(f"The settings cannot be used:\n{error}", err=True)
        sys.exit(EXIT_SETTINGS)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run one command; what it raises becomes a sentence and an exit code."""
    try:
        return asyncio.run(work)
    except ServiceError as error:
        click.echo(f"{error.sentence}{f' ({error.detail})' if error.detail else ''}", err=True)
        sys.exit(EXIT_SETTINGS if error.code in ("schema_mismatch", "cannot_listen") else 1)


main.add_command(demo)

if __name__ == "__main__":
    main()

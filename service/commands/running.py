"""The commands serve, migrate and health, for process supervisors."""

import asyncio
import signal

import aiohttp
import click

from service.commands.environment import EXIT_FAILED, command, settings
from service.postgres.migrate import migrate as apply_migrations
from service.process import run as program
from service.settings import load

_HEALTH_SECONDS = 4.0


@click.command()
@command
async def serve() -> None:
    """Run the service: HTTP API and job runner.

    Without DATABASE_URL and STORAGE_URL, it starts an embedded Postgres and keeps all data in STATE_DIR.
    """
    with settings(alone=True) as given:
        _ = given.files_url  # raises SettingsError now if only DATABASE_URL is set
        stop = program.Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.ask)
        await program.run(given, stop)


@click.command()
@command
async def migrate() -> None:
    """Apply missing migrations to the main database."""
    with settings() as given:
        applied = await apply_migrations(given.direct_dsn, own_contacts=given.contacts_database_url is None)
        click.echo("\n".join(f"applied {name}" for name in applied) or "up to date", err=True)


@click.command()
@command
async def health() -> None:
    """Check whether the service on this machine is alive. Exits with 0 if it is, else 1."""
    given = load()
    host = "127.0.0.1" if given.host in ("0.0.0.0", "::") else given.host  # noqa: S104
    address = f"http://{f'[{host}]' if ':' in host else host}:{given.port}/healthz"
    try:
        async with aiohttp.request("GET", address, timeout=aiohttp.ClientTimeout(total=_HEALTH_SECONDS)) as response:
            alive = response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        alive = False
    if not alive:
        click.echo(f"no healthy service at {address}", err=True)
        raise SystemExit(EXIT_FAILED)

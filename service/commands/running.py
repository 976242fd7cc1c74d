"""The commands serve and migrate, for process supervisors."""

import asyncio
import signal

import click

from service.commands.environment import command, settings
from service.commands.output import print_note
from service.postgres.migrate import EMPTY_CONTACTS
from service.postgres.migrate import migrate as apply_migrations
from service.process import run as program
from service.setting_source import load


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
        await program.run(given, stop, own_files=load().database_url is None)


@click.command()
@command
async def migrate() -> None:
    """Apply missing migrations to the main database."""
    with settings() as given:
        applied = await apply_migrations(given.direct_dsn, own_contacts=given.contacts_database_url is None)
        print_note("\n".join(f"applied {name}" for name in applied) or "up to date")
        if any(name.startswith("contacts/") for name in applied):
            print_note(EMPTY_CONTACTS)

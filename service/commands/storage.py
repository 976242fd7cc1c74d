"""The commands of `contact-exports storage`."""

import click

from service.commands.environment import command, settings
from service.process.resources import open_store


@click.group()
def storage() -> None:
    """Manage the file storage."""


@storage.command("init")
@command
async def storage_init() -> None:
    """Create the bucket or directory if it does not exist, and check that files can be written."""
    with settings() as given:
        async with open_store(given) as store:
            await store.create()
            await store.probe()
    click.echo("ready", err=True)

"""The commands of `contact-exports storage`."""

import click

from service.commands.environment import command, database_and_store, settings
from service.commands.output import print_note
from service.process.build import build_ownership
from service.process.resources import open_store


@click.group()
def storage() -> None:
    """Manage the file storage."""


@storage.command("init")
@command
async def storage_init() -> None:
    """Create the bucket or directory if it does not exist, and try every step that the service needs.

    A small file is written, downloaded by a link and deleted. Prints what the store refuses.
    """
    with settings() as given:
        async with open_store(given) as store:
            await store.create()
            for warning in await store.rehearse():
                print_note(f"warning: {warning}")
    print_note("ready")


@storage.command("adopt")
@command
async def storage_adopt() -> None:
    """Make this database the owner of the files in STORAGE_URL.

    Needed after a restore, or after a move to another server. Stop the services of the previous owner first.
    """
    async with database_and_store() as (given, opened, store):
        adopted = await build_ownership(store, opened, given).take()
    print_note("adopted" if adopted else "the files already belong to this database")

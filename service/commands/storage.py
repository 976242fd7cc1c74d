"""The commands of `contact-exports storage`."""

import click

from service.commands.environment import command, database_and_store, settings
from service.commands.output import print_note
from service.errors import ServiceError
from service.failures import ExportFailure
from service.process.build import build_ownership
from service.process.resources import open_store
from service.settings import Settings


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
        try:
            async with open_store(given) as store:
                await store.create()
                for warning in await store.rehearse():
                    print_note(f"warning: {warning}")
        except ExportFailure as failure:
            raise ServiceError(
                f"The store cannot be used: {failure.detail or failure.message}. {_places(given)}"
            ) from failure
    print_note("ready")


def _places(given: Settings) -> str:
    """Which store the settings name."""
    endpoint = "" if given.s3_endpoint_url is None else f", S3_ENDPOINT_URL is {given.s3_endpoint_url}"
    return f"STORAGE_URL is {given.files_url}{endpoint}."


@storage.command("adopt")
@command
async def storage_adopt() -> None:
    """Make this database the owner of the files in STORAGE_URL.

    Needed after a restore, or after a move to another server. Stop the services of the previous owner first.
    """
    async with database_and_store() as (given, opened, store):
        adopted = await build_ownership(store, opened, given).take()
    print_note("adopted" if adopted else "the files already belong to this database")

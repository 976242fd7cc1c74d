"""The commands of `contact-exports spaces`."""

from datetime import timedelta

import click

from service.access import Access
from service.commands.arguments import ID, Name
from service.commands.environment import command, database, database_and_store
from service.commands.output import print_fields, print_line, print_note
from service.exports.leftovers import GRACE_LEASES
from service.exports.space_deletion import SpaceDeletion
from service.postgres.access import AccessTables
from service.postgres.claims import Claims
from service.postgres.export_files import ExportFiles
from service.postgres.space_deletion import SpaceDeletionTables
from service.process.build import build_ownership


@click.group()
def spaces() -> None:
    """Manage Spaces (tenants)."""


@spaces.command("create")
@click.argument("name", type=Name())
@click.option("--timezone", required=True, metavar="TZ", help="IANA timezone, e.g. Europe/Berlin.")
@command
async def spaces_create(name: str, timezone: str) -> None:
    """Create a Space and print its id."""
    async with database() as opened:
        print_line(await Access(AccessTables(opened)).create_space(name, timezone))


@spaces.command("list")
@command
async def spaces_list() -> None:
    """List Spaces: id, name, timezone, subscription."""
    async with database() as opened:
        for space in await AccessTables(opened).spaces():
            state = "active" if space.subscription_active else "suspended"
            print_fields(space.space_id, space.name, space.timezone, state)


@spaces.command("suspend")
@click.argument("space_id", type=ID)
@command
async def spaces_suspend(space_id: int) -> None:
    """Suspend a Space: all its API calls return 403. Its queued and running exports continue."""
    async with database() as opened:
        await AccessTables(opened).set_subscription(space_id, active=False)


@spaces.command("activate")
@click.argument("space_id", type=ID)
@command
async def spaces_activate(space_id: int) -> None:
    """Reactivate a suspended Space."""
    async with database() as opened:
        await AccessTables(opened).set_subscription(space_id, active=True)


@spaces.command("delete")
@click.argument("space_id", type=ID)
@click.option("--yes", is_flag=True, help="Delete without asking.")
@command
async def spaces_delete(space_id: int, yes: bool) -> None:  # noqa: FBT001 - click passes each option as a parameter
    """Delete a Space with its keys, its exports and their files. Prints what was done.

    Can be repeated after an interruption. The contacts are not deleted, because the service never writes to them.
    """
    async with database_and_store() as (given, opened, store):
        await build_ownership(store, opened, given).check()  # a restored copy must not delete the files of its original
        tables = SpaceDeletionTables(opened)
        found = await tables.contents(space_id)
        summary = f"keys: {found.keys}, exports: {found.exports}, running: {found.running}"
        print_note(f"Space {space_id} {found.name!r}: {summary}")
        if not yes:
            click.confirm("Delete all of it, with the files?", abort=True, err=True)
        claims = Claims(opened, renewals=opened)
        grace = timedelta(seconds=given.lease_seconds) * GRACE_LEASES
        async for done in SpaceDeletion(tables, ExportFiles(opened), claims, store, grace=grace).run(space_id):
            if done.count:
                print_line(f"{done.step.value}: {done.count}")

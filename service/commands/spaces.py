"""The commands of `contact-exports spaces`."""

import click

from service.access import Access
from service.commands.arguments import ID, Name
from service.commands.environment import command, database
from service.postgres.access import AccessTables


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
        click.echo(await Access(AccessTables(opened)).create_space(name, timezone))


@spaces.command("list")
@command
async def spaces_list() -> None:
    """List Spaces: id, name, timezone, subscription."""
    async with database() as opened:
        for space in await AccessTables(opened).spaces():
            state = "active" if space.subscription_active else "suspended"
            click.echo(f"{space.space_id}\t{space.name}\t{space.timezone}\t{state}")


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

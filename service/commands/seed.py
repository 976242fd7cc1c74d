"""The command `contact-exports seed`."""

from datetime import UTC, datetime, timedelta

import click

from service.commands.arguments import ID
from service.commands.environment import command, database, sample_contacts
from service.commands.output import print_note
from service.errors import SpaceNotFound
from service.postgres.access import AccessTables

DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--space", "space_id", type=ID, required=True, metavar="ID", help="Space of the contacts.")
@click.option(
    "--contacts", "count", required=True, type=click.IntRange(1, 100_000_000), metavar="N", help="Number of contacts."
)
@click.option(
    "--from", "first", type=DAY, default="2024-01-01", show_default=True, metavar="DATE", help="First creation date (UTC)."
)
@click.option(
    "--to", "last", type=DAY, default="2024-12-30", show_default=True, metavar="DATE", help="Last creation date (UTC)."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Seed of the random data.")
@command
async def seed(space_id: int, count: int, first: datetime, last: datetime, seed: int) -> None:
    """Add sample contacts. Only works with the tables that the migrations create."""
    if last < first:
        raise click.BadParameter("must not be before --from", param_hint="--to")
    async with database() as opened, sample_contacts() as sample:
        if all(space.space_id != space_id for space in await AccessTables(opened).spaces()):
            raise SpaceNotFound
        await sample.create(
            space_id=space_id,
            count=count,
            first_created_at=first.replace(tzinfo=UTC),
            last_created_at=last.replace(tzinfo=UTC) + timedelta(days=1, seconds=-1),
            seed=seed,
        )
    print_note(f"{count} contacts")

"""spaces, keys, exports, storage, seed: what operators do by hand or by script."""

from datetime import UTC, datetime, timedelta

import click

from service.access import Access
from service.commands.environment import command, database, sample_contacts, settings
from service.errors import ServiceError, SpaceNotFound
from service.model import ExportStatus, Scope
from service.postgres.access import AccessTables
from service.postgres.export_jobs import ExportJobs
from service.postgres.overview import Overview, Row
from service.process.resources import open_store

DAY = click.DateTime(["%Y-%m-%d"])


@click.group()
def spaces() -> None:
    """Spaces, the tenants."""


@spaces.command("create")
@click.argument("name")
@click.option("--timezone", required=True, metavar="TZ", help="IANA name, such as Europe/Berlin.")
@command
async def spaces_create(name: str, timezone: str) -> None:
    """Create a Space and print its id."""
    async with database() as opened:
        click.echo(await Access(AccessTables(opened)).create_space(name, timezone))


@spaces.command("list")
@command
async def spaces_list() -> None:
    """Print all Spaces: id, name, timezone, subscription."""
    async with database() as opened:
        for space in await AccessTables(opened).spaces():
            state = "active" if space.subscription_active else "suspended"
            click.echo(f"{space.space_id}\t{space.name}\t{space.timezone}\t{state}")


@spaces.command("suspend")
@click.argument("space_id", type=int)
@command
async def spaces_suspend(space_id: int) -> None:
    """Answer all calls of a Space with 403; its exports go on."""
    async with database() as opened:
        await AccessTables(opened).set_subscription(space_id, active=False)


@spaces.command("activate")
@click.argument("space_id", type=int)
@command
async def spaces_activate(space_id: int) -> None:
    """End the suspension of a Space."""
    async with database() as opened:
        await AccessTables(opened).set_subscription(space_id, active=True)


@click.group()
def keys() -> None:
    """API keys."""


@keys.command("create")
@click.option("--space", "space_id", type=int, required=True, metavar="ID", help="The Space it belongs to.")
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice([scope.value for scope in Scope]), help="Repeats; default: all."
)
@click.option("--expires-in", "days", type=click.IntRange(1, 36500), metavar="DAYS", help="Default: never.")
@command
async def keys_create(space_id: int, scopes: tuple[Scope, ...], days: int | None) -> None:
    """Create a key of a Space and print it: it is shown only now."""
    lifetime = timedelta(days=days) if days else None
    async with database() as opened:
        click.echo(await Access(AccessTables(opened)).create_key(space_id, scopes or Scope, lifetime))


@keys.command("list")
@click.option("--space", "space_id", type=int, metavar="ID", help="Only those of this Space.")
@command
async def keys_list(space_id: int | None) -> None:
    """Print keys: id, Space, scopes, state."""
    async with database() as opened:
        for key in await AccessTables(opened).keys(space_id):
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
            if key.expires_at and not key.revoked_at:
                state = f"{'expired' if key.expires_at < datetime.now(UTC) else 'expires'} {key.expires_at:%Y-%m-%d}"
            click.echo(f"{key.key_id}\t{key.space_id}\t{','.join(key.scopes)}\t{state}")


@keys.command("revoke")
@click.argument("key_id")
@command
async def keys_revoke(key_id: str) -> None:
    """Refuse a key from now on, named by its id or by itself."""
    async with database() as opened:
        if not await Access(AccessTables(opened)).revoke_key(key_id.removeprefix("ce_").partition("_")[0]):
            raise ServiceError("There is no such key.")


@click.group()
def exports() -> None:
    """Exports, as operators see them."""


@exports.command("list")
@click.option("--space", "space_id", type=int, metavar="ID", help="Only those of this Space.")
@click.option("--status", help="Only those in this state.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many, newest first.")
@command
async def exports_list(space_id: int | None, status: str | None, limit: int) -> None:
    """Print exports: id, Space, state, age, what is to be said of it."""
    async with database() as opened:
        for row in await Overview(opened).latest(space_id=space_id, status=status, limit=limit):
            click.echo("\t".join(str(row[name]) for name in ("export_id", "space", "status", "age", "summary")))


@exports.command("show")
@click.argument("export_id", type=int)
@command
async def exports_show(export_id: int) -> None:
    """Print all that is known of an export, and each of its attempts."""
    async with database() as opened:
        overview = Overview(opened)
        row = await overview.one(export_id)
        if row is None:
            raise ServiceError("There is no such export.")
        _print_fields(row)
        for attempt in await overview.attempts(export_id):
            click.echo()
            _print_fields(attempt)


@exports.command("cancel")
@click.argument("export_id", type=int)
@command
async def exports_cancel(export_id: int) -> None:
    """Cancel an export that waits or runs, or remove the file of a completed one; print its state."""
    async with database() as opened:
        found = await ExportJobs(opened).cancel(export_id, None)
    if found is None:
        raise ServiceError("There is no such export.")
    click.echo(found.status)
    if found.was is found.status:
        click.echo("it had ended already", err=True)
    elif found.status is ExportStatus.EXPIRED:
        click.echo("a running service removes the file", err=True)


@click.group()
def storage() -> None:
    """The object store."""


@storage.command("init")
@command
async def storage_init() -> None:
    """Create the bucket or directory if it is missing, and check that files can be written."""
    with settings() as given:
        async with open_store(given) as store:
            await store.create()
            await store.probe()
    click.echo("ready", err=True)


@click.command()
@click.option("--space", "space_id", type=int, required=True, metavar="ID", help="The Space they belong to.")
@click.option("--contacts", "count", required=True, type=click.IntRange(1, 100_000_000), metavar="N", help="How many.")
@click.option("--from", "first", type=DAY, default="2024-01-01", show_default=True, metavar="DATE", help="First creation.")
@click.option("--to", "last", type=DAY, default="2024-12-30", show_default=True, metavar="DATE", help="Last creation.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**31 - 1), help="Other data for other seeds.")
@command
async def seed(space_id: int, count: int, first: datetime, last: datetime, seed: int) -> None:
    """Add sample contacts, into our own three tables."""
    if last < first:
        raise click.BadParameter("must not be before --from", param_hint="--to")
    async with database() as opened, sample_contacts() as contacts:
        if all(space.space_id != space_id for space in await AccessTables(opened).spaces()):
            raise SpaceNotFound
        await contacts.create(
            space_id=space_id,
            count=count,
            first_created_at=first.replace(tzinfo=UTC),
            last_created_at=last.replace(tzinfo=UTC) + timedelta(days=1, seconds=-1),
            seed=seed,
        )
    click.echo(f"{count} contacts", err=True)


def _print_fields(row: Row) -> None:
    for name, value in row.items():
        if value is not None:
            click.echo(f"{name:22} {value}")

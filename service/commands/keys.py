"""The commands of `contact-exports keys`."""

from datetime import UTC, datetime, timedelta

import click

from service.access import Access
from service.commands.arguments import ID
from service.commands.environment import command, database
from service.commands.output import print_fields, print_line
from service.errors import ServiceError
from service.model import Scope
from service.postgres.access import AccessTables


@click.group()
def keys() -> None:
    """Manage API keys."""


@keys.command("create")
@click.option("--space", "space_id", type=ID, required=True, metavar="ID", help="Space of the key.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="Scope of the key. Can be repeated. Defaults to all scopes.",
)
@click.option(
    "--expires-in", "days", type=click.IntRange(1, 36500), metavar="DAYS", help="Lifetime of the key. Unlimited by default."
)
@command
async def keys_create(space_id: int, scopes: tuple[Scope, ...], days: int | None) -> None:
    """Create an API key and print it. It cannot be shown again."""
    lifetime = timedelta(days=days) if days else None
    async with database() as opened:
        print_line(await Access(AccessTables(opened)).create_key(space_id, scopes or Scope, lifetime))


@keys.command("list")
@click.option("--space", "space_id", type=ID, metavar="ID", help="Only keys of this Space.")
@command
async def keys_list(space_id: int | None) -> None:
    """List API keys: id, Space, scopes, state."""
    async with database() as opened:
        for key in await AccessTables(opened).keys(space_id):
            state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
            if key.expires_at and not key.revoked_at:
                state = f"{'expired' if key.expires_at < datetime.now(UTC) else 'expires'} {key.expires_at:%Y-%m-%d}"
            print_fields(key.key_id, key.space_id, ",".join(key.scopes), state)


@keys.command("revoke")
@click.argument("key_id")
@command
async def keys_revoke(key_id: str) -> None:
    """Revoke an API key, given its id or the key itself."""
    async with database() as opened:
        if not await Access(AccessTables(opened)).revoke_key(key_id.removeprefix("ce_").partition("_")[0]):
            raise ServiceError("There is no such key.")

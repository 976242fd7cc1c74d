"""The commands of `contact-exports exports`."""

import click

from service.commands.arguments import ID
from service.commands.environment import command, database
from service.commands.output import print_fields, print_line, print_note, print_row
from service.errors import ServiceError
from service.model import ExportStatus
from service.postgres.export_jobs import ExportJobs
from service.postgres.overview import Overview
from service.postgres.webhook_deliveries import WebhookDeliveries


@click.group()
def exports() -> None:
    """Inspect and cancel exports."""


@exports.command("list")
@click.option("--space", "space_id", type=ID, metavar="ID", help="Only exports of this Space.")
@click.option("--status", type=click.Choice([status.value for status in ExportStatus]), help="Only exports in this state.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number, newest first.")
@command
async def exports_list(space_id: int | None, status: str | None, limit: int) -> None:
    """List exports: id, Space, state, age, summary."""
    async with database() as opened:
        for row in await Overview(opened).latest(space_id=space_id, status=status, limit=limit):
            print_fields(*(row[name] for name in ("export_id", "space", "status", "age", "summary")))


@exports.command("show")
@click.argument("export_id", type=ID)
@command
async def exports_show(export_id: int) -> None:
    """Show all fields of an export and of its attempts, and its webhooks."""
    async with database() as opened:
        overview = Overview(opened)
        row = await overview.one(export_id)
        if row is None:
            raise ServiceError("There is no such export.")
        print_row(row)
        for attempt in await overview.attempts(export_id):
            print_line()
            print_row(attempt)
        for delivery in await WebhookDeliveries(opened).of_export(export_id):
            print_line()
            print_row(delivery)


@exports.command("cancel")
@click.argument("export_id", type=ID)
@command
async def exports_cancel(export_id: int) -> None:
    """Cancel a queued or running export, or delete the file of a completed one. Prints its state."""
    async with database() as opened:
        found = await ExportJobs(opened).cancel(export_id, None)
    if found is None:
        raise ServiceError("There is no such export.")
    print_line(found.status)
    if found.was is found.status:
        print_note("the export had already ended")
    elif found.status is ExportStatus.EXPIRED:
        print_note("a running service will delete the file")

"""The commands of `contact-exports webhooks`."""

import uuid

import click
import orjson

from service.commands.arguments import ID
from service.commands.environment import EXIT_FAILED, command, database
from service.commands.output import print_fields, print_line, print_note, print_row, visible
from service.errors import ServiceError, WebhookAddressRefused
from service.postgres.webhook_deliveries import WebhookDeliveries
from service.postgres.webhook_endpoints import WebhookEndpoints
from service.process.webhooks import allow_list, build_sender
from service.setting_source import load
from service.web.bodies import render_time
from service.webhooks.event_types import BY_DEFAULT, EVENT_TYPES
from service.webhooks.signing import secret_text, signed_headers

_STATES = ("waiting", "delivered", "given_up", "endpoint_gone")
SPACE = click.option("--space", "space_id", type=ID, required=True, metavar="ID", help="Space of the endpoint.")


@click.group()
def webhooks() -> None:
    """Manage webhook endpoints and their deliveries."""


@webhooks.command("set")
@SPACE
@click.argument("url")
@click.option(
    "--event",
    "events",
    multiple=True,
    type=click.Choice(EVENT_TYPES),
    help="Event to send; repeatable.  [default: all but expired]",
)
@command
async def webhooks_set(space_id: int, url: str, events: tuple[str, ...]) -> None:
    """Set the endpoint of a Space and enable it. Prints the secret of a new endpoint. It cannot be shown again."""
    try:
        allow_list(load()).check_url(url)
    except WebhookAddressRefused as error:
        raise click.BadParameter(error.message, param_hint="URL") from None
    async with database() as opened:
        secret = await WebhookEndpoints(opened).set(space_id, url, sorted(set(events or BY_DEFAULT)))
    if secret is None:
        print_note("the secret is unchanged")
    else:
        print_line(secret_text(secret))


@webhooks.command("show")
@SPACE
@command
async def webhooks_show(space_id: int) -> None:
    """Show the endpoint of a Space, whether it works, and what waits for it. Never shows a secret."""
    async with database() as opened:
        row = await WebhookEndpoints(opened).overview(space_id)
    print_row({**row, "events": ", ".join(row["events"])})


@webhooks.command("rotate")
@SPACE
@command
async def webhooks_rotate(space_id: int) -> None:
    """Make a new secret and print it. For one day webhooks are signed with both secrets."""
    async with database() as opened:
        print_line(secret_text(await WebhookEndpoints(opened).rotate(space_id)))


@webhooks.command("disable")
@SPACE
@command
async def webhooks_disable(space_id: int) -> None:
    """Send nothing more to the endpoint of a Space. Deliveries that wait end as endpoint_gone."""
    async with database() as opened:
        await WebhookEndpoints(opened).disable(space_id, "disabled by an operator")


@webhooks.command("enable")
@SPACE
@command
async def webhooks_enable(space_id: int) -> None:
    """Send events to a disabled endpoint again. Events of the meantime must be resent."""
    async with database() as opened:
        await WebhookEndpoints(opened).enable(space_id)


@webhooks.command("test")
@SPACE
@command
async def webhooks_test(space_id: int) -> None:
    """Send a test message to the endpoint of a Space. Prints the request, the response and the duration."""
    sender = build_sender(load())
    async with database() as opened:
        endpoint = await WebhookEndpoints(opened).to_test(space_id)
    body = orjson.dumps({"type": "webhook.test", "timestamp": render_time(endpoint.at), "data": {}})
    headers = signed_headers(f"msg_{uuid.uuid4().hex}", endpoint.at, body, endpoint.secrets)
    print_line(f"POST {endpoint.url}")
    for name, value in headers.items():
        print_line(f"{name}: {value}")
    print_line(f"\n{body.decode()}\n")
    response = await sender.post(endpoint.url, body, headers)
    print_line(visible(response.reason))
    if response.body:
        print_line(_printable(response.body))
    print_line(f"after {response.seconds:.3f} s")
    if not response.accepted:
        raise SystemExit(EXIT_FAILED)


@webhooks.command("deliveries")
@click.option("--space", "space_id", type=ID, metavar="ID", help="Only deliveries of this Space.")
@click.option("--state", type=click.Choice(_STATES), help="Only deliveries in this state.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number, newest first.")
@command
async def webhooks_deliveries(space_id: int | None, state: str | None, limit: int) -> None:
    """List deliveries that wait, and those of the last 7 days: id, Space, export, event, age, summary."""
    async with database() as opened:
        for row in await WebhookDeliveries(opened).latest(space_id=space_id, state=state, limit=limit):
            print_fields(*(row[name] for name in ("webhook_id", "space", "export_id", "event", "age", "summary")))


@webhooks.command("resend")
@click.argument("webhook_id")
@command
async def webhooks_resend(webhook_id: str) -> None:
    """Send a delivery again, or at once if it waits. Its id stays the same."""
    async with database() as opened:
        resent = await WebhookDeliveries(opened).resend(webhook_id)
    if resent is None:
        raise ServiceError("There is no such delivery.")
    if not resent:
        raise ServiceError("The endpoint of this delivery is disabled or deleted.")


def _printable(body: bytes) -> str:
    """Text without characters that control a terminal."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in body.decode(errors="replace"))

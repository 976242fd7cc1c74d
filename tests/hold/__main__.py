"""`./run hold`: hold connections for a while, as a client without a key could; `--help` lists the options."""

import asyncio
import json
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from service import logs
from tests.hold.clients import KINDS
from tests.hold.run import Plan, hold
from tests.hold.short_deadlines import REOPEN_SECONDS
from tests.support import postgres, stores
from tests.support.program import running
from tests.support.scene import scene


@click.command()
@click.option("--minutes", type=click.FloatRange(0.05), default=1, show_default=True, help="How long to hold them.")
@click.option("--connections", type=click.IntRange(1, 20_000), default=1000, show_default=True, help="How many to hold.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only this kind; may be repeated.")
@click.option(
    "--short-deadlines", is_flag=True, help="Shorten the service's deadlines for clients, so that a minute shows all."
)
def main(minutes: float, connections: int, kinds: tuple[str, ...], short_deadlines: bool) -> None:
    """Hold connections to a service on this machine and check that nobody else notices.

    Prints one line of JSON. The exit code is 1 if a bound was violated.
    """
    logs.set_up(level="warning", form="console")  # stdout is for the report
    # Both signals stop the run with cleanup; a shell may have started it with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    plan = Plan(connections, minutes * 60, kinds or KINDS)
    module = "service"
    if short_deadlines:
        plan, module = replace(plan, reopen_seconds=REOPEN_SECONDS), "tests.hold.short_deadlines"
    with postgres.server() as server, postgres.migrated_template(server) as template:
        report = asyncio.run(_run(server, template, plan, module))
    click.echo(json.dumps(report, ensure_ascii=False))
    sys.exit(1 if report["violations"] else 0)


async def _run(server: str, template: str, plan: Plan, module: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="contact-exports-hold-") as directory:
        async with (
            postgres.database(server, template) as url,
            stores.directory_store(Path(directory, "files")) as files,
            scene(url, files, Path(directory)) as made,
            running(made.settings(), module=module) as program,
        ):
            return await hold(made, program, plan)


if __name__ == "__main__":
    main()

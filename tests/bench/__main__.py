"""`./run bench`: measure the service and print the result; `--help` lists the options."""

import asyncio
import json
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import click
from click.decorators import FC

from service import logs
from service.embedded import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres
from tests.bench import (
    comparison,
    contact_pages,
    custom_fields,
    latency,
    memory,
    monitoring,
    narrow,
    object_store,
    queueing,
    replicas,
    report,
    stages,
    startup,
    table,
    throughput,
    waiting,
    webhooks,
)
from tests.bench.bench import Bench, Figures, Plan
from tests.bench.contents import WrongFile
from tests.bench.dataset import PARAMETERS
from tests.bench.ours import ExportFailed
from tests.bench.rivals import ALL, RivalFailed
from tests.bench.workloads import WORKLOADS

PARTS: dict[str, Callable[[Bench], Awaitable[Figures]]] = {
    "workloads": comparison.compare,
    "s3": object_store.measure,
    "stages": stages.measure,
    "memory": memory.measure,
    "latency": latency.measure,
    "queue": queueing.measure,
    "waiting": waiting.measure,
    "webhooks": webhooks.measure,
    "contact_pages": contact_pages.measure,
    "throughput": throughput.measure,
    "custom_fields": custom_fields.measure,
    "monitoring": monitoring.measure,
    "narrow": narrow.measure,
    "replicas": replicas.measure,
    "startup": startup.measure,
}


def _several(name: str, into: str, choices: Iterable[str], text: str) -> Callable[[FC], FC]:
    return click.option(name, into, multiple=True, type=click.Choice(list(choices)), help=f"{text}; may be repeated.")


@click.command()
@click.option(
    "--contacts", type=click.IntRange(10_000, 10_000_000), help="Contacts of the measured Space.  [default: 1000000]"
)
@click.option("--rounds", type=click.IntRange(1, 100), help="Number of rounds; results are medians.  [default: 5]")
@_several("--only", "parts", PARTS, "Only this part")
@_several("--workload", "workloads", WORKLOADS, "Only this workload")
@_several("--rival", "rivals", ALL, "Only against this rival")
@click.option("--large", is_flag=True, help="Also measure a table of 10 million contacts; needs 4 GB of disk.")
@click.option("--quick", is_flag=True, help="20,000 contacts and one round, to test the benchmark itself.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="Keep the databases here for the next run.")
def main(  # noqa: PLR0913, PLR0917 - click passes each option as a parameter
    contacts: int | None,
    rounds: int | None,
    parts: tuple[str, ...],
    workloads: tuple[str, ...],
    rivals: tuple[str, ...],
    large: bool,
    quick: bool,
    as_json: bool,
    data: Path | None,
) -> None:
    """Compare the service with hand-written exports, and measure its memory and its latency.

    Starts a Postgres of its own in a temporary directory and removes both at the end.
    """
    logs.set_up(level="warning", form="console")
    # Both signals stop the benchmark with cleanup; a shell may have started it with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    contacts = contacts or (20_000 if quick else 1_000_000)
    plan = Plan(
        contacts=contacts,
        others=contacts // 2,
        rounds=rounds or (1 if quick else 5),
        workloads=workloads or tuple(WORKLOADS),
        rivals=rivals or ALL,
        large=large,
        quick=quick,
    )
    try:
        result = _run(plan, parts or tuple(PARTS), data)
    except (EmbeddedError, ExportFailed, RivalFailed, WrongFile) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False))
    else:
        table.show(result)


def _run(plan: Plan, parts: tuple[str, ...], data: Path | None) -> Figures:
    started = time.monotonic()

    def say(text: str) -> None:
        click.echo(f"{time.monotonic() - started:6.0f} s  {text}", err=True)

    # Next to the kept data, so that the service, the rivals and the tables use one file system.
    place = data and data.absolute().parent
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="contact-exports-bench-", dir=place) as directory,
        EmbeddedPostgres(data or Path(directory, "postgres"), parameters=PARAMETERS) as server,
    ):
        return asyncio.run(_measure(Bench(plan, server, Path(directory), say), parts))


async def _measure(bench: Bench, parts: tuple[str, ...]) -> Figures:
    result = report.new(bench)
    for name in parts:
        report.add(result, await PARTS[name](bench))
    result["missing"] = sorted(bench.missing)
    return report.rounded(result)


if __name__ == "__main__":
    main()

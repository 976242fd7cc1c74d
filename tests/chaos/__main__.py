"""`./run chaos`: one run of the crash test; `--help` lists the options."""

import asyncio
import json
import random
import signal
import sys
from pathlib import Path

import click

from service import logs
from tests.chaos.run import Plan, Run

ROOT = Path(__file__).parents[2]


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True, help="Seconds of faults.")
@click.option("--seed", type=int, help="Seed of the random actions.  [default: random, printed]")
@click.option("--replicas", type=click.IntRange(1, 20), default=3, show_default=True, help="Number of service processes.")
@click.option("--stop-at-first", is_flag=True, help="Stop at the first violation.")
@click.option("--code", type=click.Path(path_type=Path, exists=True), default=ROOT, help="Directory of service/ and sql/.")
def main(seconds: float, seed: int | None, replicas: int, stop_at_first: bool, code: Path) -> None:
    """Break a service with several processes at random, then check that every export ended once and nothing is left over.

    Prints one line of JSON. The exit code is 1 if an invariant was violated.
    """
    logs.set_up(level="warning", form="console")  # stdout is for the report
    # Both signals stop the run with cleanup; a shell may have started it with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    seed = random.randrange(10**6) if seed is None else seed
    plan = Plan(seconds, seed, replicas, stop_at_first, code.absolute())
    report = asyncio.run(Run(plan, lambda text: click.echo(text, err=True)).run())
    click.echo(json.dumps(report, ensure_ascii=False))
    sys.exit(1 if report["violations"] else 0)


if __name__ == "__main__":
    main()

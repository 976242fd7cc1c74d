"""`./run mutants`: runs the crash test on copies of the service that each contain one known bug, which it must detect."""

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from service import logs
from tests.chaos.__main__ import ROOT
from tests.chaos.focus import Focus
from tests.chaos.run import Plan, Run

_PATCHES = ROOT / "tests" / "support" / "mutants"
_FOCUS = {
    # A worker that has finished its file delays recording it, and its export is requeued. The next worker starts slowly.
    "completion_by_state": Focus(
        ("before_outcome:delay(3)@0.8", "snapshot_open:delay(4)@0.5"),
        {"kick": 60, "kill": 2, "stop": 2, "end": 2, "terminate_backends": 2},
    ),
    "delete_when_the_finish_errors": Focus(),
    "one_object_name": Focus(("upload_completed:stall(3.5)@0.25",)),
    "renewal_without_the_claim": Focus(("before_renew:stall(3.5)@0.1",)),
    # An export that expires while the webhook of its completion waits for a retry.
    "webhooks_out_of_order": Focus(
        actions={"ask": 60, "expire": 60, "kill": 2, "stop": 2, "end": 2, "terminate_backends": 2}
    ),
}
"""Raises the frequency of the failures that trigger each bug, so that 60 seconds suffice."""
_HARM = {
    "completion_by_state": ("I8",),
    "delete_when_the_finish_errors": ("I4", "I6", "I9"),
    "one_object_name": ("I4", "I6", "I9", "I11"),
    "renewal_without_the_claim": ("I8",),
    "webhooks_out_of_order": ("I18",),
}
"""The invariants that each bug violates. A run that violates only others has not found the bug."""
MUTANTS = tuple(_FOCUS)
SEEDS = (1, 2, 3)
_REPLICAS = 3


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True, help="Time limit for detecting one bug.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Seed of a run; may be repeated.  [default: 1, 2, 3]")
@click.option("--only", "names", type=click.Choice(MUTANTS), multiple=True, help="Only this bug; may be repeated.")
def main(seconds: float, seeds: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Check that the crash test detects known bugs.

    A run ends with its first violation. A bug counts as found if at least half of the seeds detect it; the remaining seeds
    are then not tried. The exit code is 1 if a bug is not found.
    """
    logs.set_up(level="error", form="console")
    seeds = seeds or SEEDS
    missed = []
    for name in names or MUTANTS:
        wanted = needed = -(-len(seeds) // 2)
        for seed in seeds:
            needed -= _found(name, seed, seconds)
            if not needed:
                break
        else:
            missed.append(f"{name} ({wanted - needed} of {wanted})")
    click.echo(f"not found: {', '.join(missed)}" if missed else "every bug was found")
    sys.exit(1 if missed else 0)


def _found(name: str, seed: int, seconds: float) -> bool:
    """Whether a run detects this bug within `seconds`. Prints the violation and its time."""
    started = time.monotonic()
    with mutated(name) as code:
        report = asyncio.run(Run(Plan(seconds, seed, _REPLICAS, True, code, _FOCUS[name]), lambda _: None).run())
    if evidence := report["evidence"]:
        shutil.rmtree(evidence)
    first, after = (report["violations"] or [""])[0], report["first_violation_after"]
    found = first.partition(":")[0] in _HARM[name] and after <= seconds
    what = f"after {after:.1f} s: {first}" if first else "nothing"
    click.echo(f"{'found' if found else 'MISSED'}: {name}, seed {seed}, {time.monotonic() - started:.0f} s: {what}")
    return found


@contextmanager
def mutated(name: str) -> Iterator[Path]:
    """Make a copy of the service with this bug. Raises CalledProcessError if its patch no longer applies."""
    with tempfile.TemporaryDirectory(prefix=f"contact-exports-{name}-") as directory:
        for package in ("service", "sql"):
            shutil.copytree(ROOT / package, Path(directory, package), ignore=shutil.ignore_patterns("__pycache__"))
        patch = (_PATCHES / f"{name}.patch").read_bytes()
        subprocess.run(["git", "apply", "--unsafe-paths", "--directory", directory], input=patch, check=True, cwd="/")
        yield Path(directory)


if __name__ == "__main__":
    main()

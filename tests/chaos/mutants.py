"""`./run mutants`: the crash test has teeth. It is run on copies of the service with a bug each, and has to find it."""

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
    # Exports are taken from workers that have the file and are slow to say so; whoever takes over is slow to begin.
    "completion_by_state": Focus(
        ("before_settle:delay(3)@0.8", "snapshot_open:delay(4)@0.5"),
        {"kick": 60, "kill": 2, "stop": 2, "end": 2, "terminate_backends": 2},
    ),
    "delete_when_the_finish_errors": Focus(),
    "one_object_name": Focus(("upload_completed:stall(3.5)@0.25",)),
    "renewal_without_the_claim": Focus(("before_renew:stall(3.5)@0.1",)),
}
"""What strikes so often that a minute is enough; everything else goes wrong as in any run."""
_HARM = {
    "completion_by_state": ("I8",),
    "delete_when_the_finish_errors": ("I4", "I6", "I9"),
    "one_object_name": ("I4", "I6", "I9", "I11"),
    "renewal_without_the_claim": ("I8",),
}
"""The invariants that each bug breaks: a run that only went wrong otherwise has not found it."""
MUTANTS = tuple(_FOCUS)
SEEDS = (1, 2, 3)
_REPLICAS = 3


@click.command()
@click.option("--seconds", type=click.FloatRange(1), default=60, show_default=True, help="How long a bug may stay unseen.")
@click.option("--seed", "seeds", type=int, multiple=True, help="Repeats.  [default: 1, 2, 3]")
@click.option("--only", "names", type=click.Choice(MUTANTS), multiple=True, help="Only this bug; repeats.")
def main(seconds: float, seeds: tuple[int, ...], names: tuple[str, ...]) -> None:
    """Let the crash test look for bugs that were put in on purpose.

    A run ends with its first violation. A bug counts as found when two of three seeds have found it, or half of the given
    ones; the others are not tried then. The exit code is 1 if one is not found.
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
    """Whether a run finds this bug within so many seconds; prints what it found, and when."""
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
    """A copy of the service with this bug. Raises CalledProcessError where its patch does not fit the code any more."""
    with tempfile.TemporaryDirectory(prefix=f"contact-exports-{name}-") as directory:
        for package in ("service", "sql"):
            shutil.copytree(ROOT / package, Path(directory, package), ignore=shutil.ignore_patterns("__pycache__"))
        patch = (_PATCHES / f"{name}.patch").read_bytes()
        subprocess.run(["git", "apply", "--unsafe-paths", "--directory", directory], input=patch, check=True, cwd="/")
        yield Path(directory)


if __name__ == "__main__":
    main()

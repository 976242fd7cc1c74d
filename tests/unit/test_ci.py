"""Continuous integration, with stubs in place of the steps."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STUB = """#!/bin/sh
echo "output of $(basename "$0") $*"
[ "$*" != "$FAILING" ]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout in which every step is a stub that prints its arguments and fails if they are those in FAILING."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    for name in ("run", ".ci/package", "apt-get"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def ci(checkout: Path, failing: str) -> subprocess.CompletedProcess[str]:
    """Run it under nohup and without standard input."""
    environment = {"PATH": f"{checkout}:{os.environ['PATH']}", "FAILING": failing}
    command = ["nohup", str(checkout / ".ci" / "run")]
    return subprocess.run(
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def test_it_prints_a_line_per_step_and_ends_with_the_summary_of_the_tests(checkout: Path) -> None:
    ended = ci(checkout, "none")
    *steps, last = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert all(line.startswith("ci: ") for line in steps)
    assert last == "output of run test"


@pytest.mark.parametrize(
    ("failing", "named"),
    [
        ("check", "check"),
        ("", "package"),
        ("foreign", "foreign tests"),
        ("mutants --only one_object_name --seed 2", "mutant"),
        ("bench --quick --only workloads --workload both", "benchmark"),
        ("test -m long or debian" if os.geteuid() == 0 else "test -m long", "long tests"),
    ],
)
def test_it_stops_at_the_first_step_that_fails_and_names_it(checkout: Path, failing: str, named: str) -> None:
    ended = ci(checkout, failing)
    *_, output, last = ended.stdout.splitlines()
    assert ended.returncode == 1
    assert output.startswith("output of ")
    assert output.endswith(f" {failing}")
    assert last.startswith(f"ci: {named} FAILED after ")


def test_failed_tests_fail_it_without_another_try(checkout: Path) -> None:
    ended = ci(checkout, "test")
    assert ended.returncode == 1
    assert ended.stdout.count("output of ") == 1

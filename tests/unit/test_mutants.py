"""The patches of `./run mutants` apply to the code."""

import subprocess

import pytest

from tests.chaos.mutants import MUTANTS, mutated


@pytest.mark.parametrize("name", MUTANTS)
def test_the_patch_of_a_known_bug_applies(name: str) -> None:
    with mutated(name) as code:
        different = subprocess.run(["diff", "-rq", "service", code / "service"], capture_output=True, check=False).stdout
        different += subprocess.run(["diff", "-rq", "sql", code / "sql"], capture_output=True, check=False).stdout
    assert b" differ" in different

"""Failpoints: the specification, the actions, and the list of names."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import failpoints
from service.errors import DatabaseUnavailable
from service.failpoints import POINTS, FailpointRaised, arm, failpoint
from service.postgres.driver_errors import unavailable

SERVICE = Path(failpoints.__file__).parent


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints._armed.clear()


async def raised(name: str, times: int = 1) -> int:
    """Pass the point `times` times and return how many passes raised."""
    errors = 0
    for _ in range(times):
        try:
            await failpoint(name)
        except FailpointRaised:
            errors += 1
    return errors


async def test_a_point_without_a_rule_does_nothing() -> None:
    for name in POINTS:
        await failpoint(name)
    arm("claimed:raise")
    assert await raised("outcome_recorded") == 0


async def test_the_error_of_a_failpoint_counts_as_a_lost_connection() -> None:
    arm("claimed:raise")
    with pytest.raises(FailpointRaised) as caught:
        await failpoint("claimed")
    assert unavailable(caught.value)
    assert not isinstance(caught.value, DatabaseUnavailable)


@pytest.mark.parametrize(("action", "held"), [("stall", True), ("delay", False)])
async def test_a_stall_blocks_the_event_loop_and_a_delay_only_the_task(action: str, held: bool) -> None:
    arm(f"renewed:{action}(0.1)")
    passing = asyncio.create_task(failpoint("renewed"))
    await asyncio.sleep(0)
    before = time.monotonic()
    await asyncio.sleep(0.01)
    assert passing.done() == held
    await passing
    assert held or time.monotonic() - before >= 0.09


async def test_a_star_applies_to_every_point() -> None:
    arm("*:raise")
    assert [await raised(name) for name in sorted(POINTS)] == [1] * len(POINTS)


async def test_a_probability_is_respected() -> None:
    arm("claimed:raise@0.25")
    assert 150 < await raised("claimed", times=1000) < 350
    arm("claimed:raise@0")
    assert await raised("claimed", times=1000) == 0


@pytest.mark.parametrize("spec", ["claimed:raise#2", "claimed:raise@1#2", "*:raise@1.0#2"])
async def test_a_count_limits_how_often_a_rule_applies(spec: str) -> None:
    arm(spec)
    assert await raised("claimed", times=10) == 2


async def test_several_rules_can_be_combined() -> None:
    arm("claimed:raise#1, outcome_recorded:raise#3")
    assert (await raised("claimed", times=9), await raised("outcome_recorded", times=9)) == (1, 3)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "claimed",
        "claimed:",
        "claimed:explode",
        "claimed:stall",
        "claimed:stall()",
        "claimed:stall(x)",
        "claimed:delay",
        "claimed:kill@2",
        "claimed:kill@-1",
        "claimed:kill#",
        "claimed:kill#1@0.5",
        "claimed:kill,",
        "no_such_point:kill",
    ],
)
def test_a_malformed_specification_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match=r"rule \d is malformed"):
        arm(spec)


def test_the_list_of_names_matches_the_code() -> None:
    named: Counter[str] = Counter()
    for path in SERVICE.rglob("*.py"):
        named.update(re.findall(r'(?:failpoint\(|point=)"(\w+)"', path.read_text(encoding="utf-8")))
    assert named.keys() == POINTS

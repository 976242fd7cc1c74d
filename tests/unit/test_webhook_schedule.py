"""The pauses between attempts, as the documentation lists them."""

import re
from datetime import timedelta

import pytest

from service.webhooks.schedule import LONGEST_RETRY_AFTER, PAUSES, SPREAD, pause_after
from tests.support import docs

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours"}


def test_ten_attempts_take_about_three_days() -> None:
    assert len(PAUSES) == 9
    assert timedelta(days=3) < sum(PAUSES, timedelta()) < timedelta(days=3.5)
    assert list(PAUSES) == sorted(PAUSES)


@pytest.mark.parametrize("attempt", range(1, 10))
def test_a_pause_varies_by_a_tenth(attempt: int) -> None:
    found = {pause_after(attempt) for _ in range(50)}
    assert len(found) > 40
    for pause in found:
        assert pause is not None
        assert PAUSES[attempt - 1] * (1 - SPREAD) <= pause <= PAUSES[attempt - 1] * (1 + SPREAD)


def test_after_the_last_attempt_a_delivery_is_given_up() -> None:
    assert pause_after(10) is None
    assert pause_after(10, retry_after=timedelta(hours=1)) is None


def test_a_pause_is_at_least_what_the_endpoint_asks_for_up_to_a_day() -> None:
    assert pause_after(1, retry_after=timedelta(hours=3)) == timedelta(hours=3)
    assert pause_after(1, retry_after=timedelta(days=400)) == LONGEST_RETRY_AFTER
    shortest = pause_after(4, retry_after=timedelta(seconds=1))
    assert shortest is not None
    assert shortest > timedelta(hours=1)


def test_the_documentation_lists_the_pauses() -> None:
    cells = re.findall(r"^\| (\d+) \| (\d+) (s|min|h) \|", docs.text_of("docs/webhooks.md"), re.MULTILINE)
    listed = {int(attempt): timedelta(**{_UNITS[unit]: int(count)}) for attempt, count, unit in cells}
    assert listed == dict(enumerate(PAUSES, 2))

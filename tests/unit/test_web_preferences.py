"""The Prefer header (RFC 7240)."""

import time

import pytest

from service.web.preferences import parse_wait


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["wait=10"], 10),
        (["wait=0"], 0),
        (["wait=30"], 30),
        (["wait=31"], 30),
        (["wait=999999"], 30),
        (["wait=" + "9" * 5000], 30),
        (["wait=" + "0" * 5000 + "7"], 7),
        (["wait=007"], 7),
        (["WAIT=5"], 5),
        (["Wait = 5"], 5),
        (['wait="5"'], 5),
        (["wait=5; reason=patience"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async,,wait=5,"], 5),
        (["return=minimal; a=1, wait=5 , handling=lenient"], 5),
        (["respond-async", "wait=5"], 5),
        (['note="a, wait=9", wait=5'], 5),
        (['note="a \\", wait=9", wait=5'], 5),
        (["wait=5, wait=6"], 5),
        (["wait=5", "wait=6"], 5),
        (["not a preference, wait=5"], 5),
    ],
)
def test_the_seconds_of_wait_are_found_among_all_preferences_and_headers(values: list[str], seconds: int) -> None:
    assert parse_wait(values) == seconds


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [","],
        ["wait"],
        ["wait="],
        ['wait=""'],
        ["wait=-1"],
        ["wait=+1"],
        ["wait=abc"],
        ["wait=1.5"],
        ["wait=1e1"],
        ["wait=0x10"],
        ["wait=1_0"],
        ["wait=\u0661\u0660"],
        ["wait=5 6"],
        ["wait:5"],
        ["waits=5"],
        ["note=wait=5"],
        ["note; wait=5"],
        ['note="wait=5"'],
        ['note="wait=5'],
        ["wait=abc, wait=5"],
    ],
)
def test_anything_but_a_whole_number_of_seconds_is_ignored(values: list[str]) -> None:
    assert parse_wait(values) is None


@pytest.mark.parametrize("piece", [",", '"', "\\", " ", "a=", 'a="', "a; ", "=", '"\\', "wait=0"])
def test_the_longest_header_is_parsed_in_linear_time(piece: str) -> None:
    started = time.process_time()
    parse_wait([piece * (8190 // len(piece))])
    parse_wait(["wait=" + piece * (8190 // len(piece)) + '"'])
    assert time.process_time() - started < 1.0  # a quadratic expression takes tens of seconds

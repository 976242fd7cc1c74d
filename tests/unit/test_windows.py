"""Local dates of a Space become UTC instants: DST gaps and overlaps, unusual offsets, and the first and last years."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import UnknownTimezone
from service.model import END_OF_TIME, Window, exists, instant, timezone

_SECOND = timedelta(seconds=1)
_REACH = timedelta(hours=27)
"""More than any offset from UTC, and more than any clock change."""


def at(text: str) -> datetime:
    """Parse a naive local time."""
    return datetime.fromisoformat(text)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class Ambiguity(NamedTuple):
    """A local time, and the UTC instants that it means as the start and as the end of a window."""

    zone: str
    local: str
    start: str
    end: str


GAPS = [
    Ambiguity("Europe/Berlin", "2024-03-31 02:30:00", "2024-03-31 01:00:00", "2024-03-31 01:00:00"),
    Ambiguity("Europe/Berlin", "2024-03-31 02:00:00", "2024-03-31 01:00:00", "2024-03-31 01:00:00"),
    Ambiguity("Europe/Berlin", "2024-03-31 02:59:59", "2024-03-31 01:00:00", "2024-03-31 01:00:00"),
    Ambiguity("America/New_York", "2024-03-10 02:30:00", "2024-03-10 07:00:00", "2024-03-10 07:00:00"),
    Ambiguity("Australia/Lord_Howe", "2024-10-06 02:15:00", "2024-10-05 15:30:00", "2024-10-05 15:30:00"),
    # Samoa crossed the date line and had no 30 December 2011.
    Ambiguity("Pacific/Apia", "2011-12-30 00:00:00", "2011-12-30 10:00:00", "2011-12-30 10:00:00"),
    Ambiguity("Pacific/Apia", "2011-12-30 23:59:59", "2011-12-30 10:00:00", "2011-12-30 10:00:00"),
    # Until 1972 Liberia was 44 minutes and 30 seconds behind UTC.
    Ambiguity("Africa/Monrovia", "1972-01-07 00:20:00", "1972-01-07 00:44:30", "1972-01-07 00:44:30"),
    # Ireland's standard time is its summer time; the winter offset counts as negative DST.
    Ambiguity("Europe/Dublin", "2024-03-31 01:30:00", "2024-03-31 01:00:00", "2024-03-31 01:00:00"),
]
OVERLAPS = [
    Ambiguity("Europe/Berlin", "2024-10-27 02:30:00", "2024-10-27 00:30:00", "2024-10-27 01:30:00"),
    Ambiguity("Europe/Berlin", "2024-10-27 02:00:00", "2024-10-27 00:00:00", "2024-10-27 01:00:00"),
    Ambiguity("America/New_York", "2024-11-03 01:30:00", "2024-11-03 05:30:00", "2024-11-03 06:30:00"),
    Ambiguity("Australia/Lord_Howe", "2024-04-07 01:45:00", "2024-04-06 14:45:00", "2024-04-06 15:15:00"),
    Ambiguity("Europe/Dublin", "2024-10-27 01:30:00", "2024-10-27 00:30:00", "2024-10-27 01:30:00"),
]
ONCE = [
    Ambiguity("Europe/Berlin", "2024-03-31 01:59:59", "2024-03-31 00:59:59", "2024-03-31 00:59:59"),
    Ambiguity("Europe/Berlin", "2024-03-31 03:00:00", "2024-03-31 01:00:00", "2024-03-31 01:00:00"),
    Ambiguity("Europe/Berlin", "2024-10-27 01:59:59", "2024-10-26 23:59:59", "2024-10-26 23:59:59"),
    Ambiguity("Europe/Berlin", "2024-10-27 03:00:00", "2024-10-27 02:00:00", "2024-10-27 02:00:00"),
    Ambiguity("Africa/Monrovia", "1971-12-31 12:00:00", "1971-12-31 12:44:30", "1971-12-31 12:44:30"),
    Ambiguity("Asia/Kathmandu", "2024-01-15 00:00:00", "2024-01-14 18:15:00", "2024-01-14 18:15:00"),
]


@pytest.mark.parametrize("case", GAPS + OVERLAPS + ONCE, ids=lambda case: f"{case.zone} {case.local}")
def test_a_start_takes_the_earlier_and_an_end_the_later_instant_of_a_local_time(case: Ambiguity) -> None:
    zone, local = ZoneInfo(case.zone), at(case.local)
    assert instant(local, zone, later=False) == utc(case.start)
    assert instant(local, zone, later=True) == utc(case.end)


def test_an_instant_is_in_utc() -> None:
    for later in (False, True):
        assert instant(at("2024-03-31 02:30:00"), ZoneInfo("Europe/Berlin"), later=later).tzinfo is UTC


def test_the_last_second_belongs_to_the_window() -> None:
    window = Window.from_local(at("2024-01-15 00:00:00"), at("2024-01-15 23:59:59"), ZoneInfo("UTC"))
    assert window == Window(utc("2024-01-15 00:00:00"), utc("2024-01-16 00:00:00"))


def test_an_end_in_a_gap_also_gets_the_inclusive_second() -> None:
    window = Window.from_local(at("2024-03-31 02:10:00"), at("2024-03-31 02:20:00"), ZoneInfo("Europe/Berlin"))
    assert window == Window(utc("2024-03-31 01:00:00"), utc("2024-03-31 01:00:01"))


def test_a_window_in_an_overlap_spans_both_of_its_hours() -> None:
    window = Window.from_local(at("2024-10-27 02:30:00"), at("2024-10-27 02:30:01"), ZoneInfo("Europe/Berlin"))
    assert window == Window(utc("2024-10-27 00:30:00"), utc("2024-10-27 01:30:02"))


@pytest.mark.parametrize(
    ("zone", "changing", "length"),
    [
        ("Europe/Berlin", "2024-03-31", timedelta(hours=23)),
        ("Europe/Berlin", "2024-10-27", timedelta(hours=25)),
        ("Australia/Lord_Howe", "2024-04-07", timedelta(hours=24, minutes=30)),
        ("Pacific/Apia", "2011-12-29", timedelta(hours=24)),
    ],
)
def test_consecutive_days_neither_overlap_nor_leave_a_gap(zone: str, changing: str, length: timedelta) -> None:
    midnights = [at(changing) + number * timedelta(days=1) for number in (-1, 0, 1)]
    before, day, after = [
        Window.from_local(midnight, midnight + timedelta(days=1) - _SECOND, ZoneInfo(zone)) for midnight in midnights
    ]
    assert before.end == day.start
    assert day.end == after.start
    assert day.end - day.start == length


def test_the_last_second_of_year_9999_gives_a_window_without_end() -> None:
    window = Window.from_local(at("9999-12-31 00:00:00"), at("9999-12-31 23:59:59"), ZoneInfo("UTC"))
    assert window == Window(utc("9999-12-31 00:00:00"), END_OF_TIME)
    assert utc("9999-12-31 23:59:59") < END_OF_TIME


@pytest.mark.parametrize(
    ("local", "zone", "there"),
    [
        ("0001-01-01 00:00:00", "UTC", True),
        ("0001-01-01 00:00:00", "America/New_York", True),
        ("0001-01-01 00:00:00", "Europe/Berlin", False),
        ("0001-01-01 00:53:27", "Europe/Berlin", False),
        ("0001-01-01 00:53:28", "Europe/Berlin", True),
        ("9999-12-31 23:59:59", "UTC", True),
        ("9999-12-31 23:59:59", "Europe/Berlin", True),
        ("9999-12-31 18:59:59", "America/New_York", True),
        ("9999-12-31 19:00:00", "America/New_York", False),
    ],
)
def test_a_local_time_exists_if_its_instant_is_in_the_years_1_to_9999_of_utc(local: str, zone: str, there: bool) -> None:
    assert exists(at(local), ZoneInfo(zone)) is there
    if not there:
        with pytest.raises(OverflowError):
            Window.from_local(at(local), at(local) + _SECOND, ZoneInfo(zone))


@pytest.mark.parametrize(
    "name", ["", " ", "Mars/Olympus", "Europe", "../UTC", "/etc/localtime", "UTC\0", "\ud800", "x" * 5000, "+02:00", "."]
)
def test_the_error_names_an_unknown_timezone(name: str) -> None:
    with pytest.raises(UnknownTimezone) as caught:
        timezone(name)
    assert caught.value.timezone == name


@pytest.mark.parametrize("name", ["Factory", "localtime", "posixrules", "posix/Europe/Berlin", "right/Europe/Berlin"])
def test_a_name_that_depends_on_the_machine_is_no_timezone(name: str) -> None:
    with pytest.raises(UnknownTimezone):
        timezone(name)


def test_a_known_timezone_is_found() -> None:
    assert timezone("Europe/Berlin").key == "Europe/Berlin"


# Any time in any zone ------------------------------------------------------------------------------------------------

zones = st.sampled_from(sorted(available_timezones() - {"Factory", "localtime"})).map(ZoneInfo)
local_times = st.datetimes(datetime(1850, 1, 1), datetime(2100, 1, 1)).map(lambda local: local.replace(microsecond=0))


def wall(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return the local time that clocks show at an instant."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def brute_force(local: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the first and the last instant at which clocks show this time; if none, twice the first instant after it.

    Tries all offsets of the zone within a day; searches a gap second by second.
    """
    about = local.replace(tzinfo=UTC)
    quarters = [about - _REACH + number * timedelta(minutes=15) for number in range(int(2 * _REACH / timedelta(minutes=15)))]
    offsets = {moment.astimezone(zone).utcoffset() or timedelta() for moment in quarters}
    shown = sorted(about - offset for offset in offsets if wall(about - offset, zone) == local)
    if shown:
        return shown[0], shown[-1]
    after = next(moment for moment in quarters if wall(moment, zone) > local)
    seconds = (after - timedelta(minutes=15) + number * _SECOND for number in range(901))
    first = next(moment for moment in seconds if wall(moment, zone) > local)
    return first, first


@st.composite
def times_near_a_transition(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """Draw a zone, and a local time within two hours of a change of its offset (of New Year if there is no change)."""
    zone = draw(zones)
    year = draw(st.integers(1880, 2037))
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=number) for number in range(367)]
    changes = [
        (before, after)
        for before, after in pairwise(days)
        if before.astimezone(zone).utcoffset() != after.astimezone(zone).utcoffset()
    ]
    low, high = draw(st.sampled_from(changes)) if changes else (days[0], days[0])
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        changed = middle.astimezone(zone).utcoffset() != low.astimezone(zone).utcoffset()
        low, high = (low, middle) if changed else (middle, high)
    return zone, wall(low, zone) + draw(st.integers(-7200, 7200)) * _SECOND


@given(zone=zones, local=local_times)
def test_any_time_in_any_zone_is_the_instant_at_which_its_clocks_show_it(zone: ZoneInfo, local: datetime) -> None:
    found = instant(local, zone, later=False), instant(local, zone, later=True)
    assert found == brute_force(local, zone)


@given(times_near_a_transition())
def test_any_time_near_a_transition_is_the_instant_at_which_its_clocks_show_it(case: tuple[ZoneInfo, datetime]) -> None:
    zone, local = case
    found = instant(local, zone, later=False), instant(local, zone, later=True)
    assert found == brute_force(local, zone)


@given(times_near_a_transition(), st.integers(1, 10_000))
def test_a_window_is_never_empty_if_its_end_is_after_its_start(case: tuple[ZoneInfo, datetime], seconds: int) -> None:
    zone, start = case
    window = Window.from_local(start, start + seconds * _SECOND, zone)
    assert window.end - window.start >= _SECOND
    later = Window.from_local(start + seconds * _SECOND, start + (seconds + 1) * _SECOND, zone)
    assert later.start >= window.start
    assert later.end >= window.end

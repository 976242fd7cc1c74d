"""Pages of GET /contacts with both options: the first, one in the middle and the last; each must cost the same."""

from statistics import median
from time import perf_counter

import orjson

from tests.bench.bench import Bench, Figures
from tests.bench.contents import WrongFile
from tests.bench.dataset import Contacts
from tests.bench.memory import LARGE
from tests.bench.ours import Service
from tests.bench.workloads import BOTH

SIZES = (200, 5000)
PLACES = ("first", "middle", "last")
_LARGEST, _SMALLEST = max(SIZES), min(SIZES)

Cursor = str | None
"""None for the first page."""


async def measure(bench: Bench) -> Figures:
    """Milliseconds from the request to the last byte, from the plan's contacts and with `--large` from 10 million.

    In the large table the first, middle and last contacts have tokens and email addresses.
    """
    figures = {"contact_pages": await _measure(bench, await bench.contacts())}
    if bench.plan.large:
        figures["contact_pages_large"] = await _measure(bench, await bench.contacts(LARGE, 0, LARGE // 10))
    return figures


async def _measure(bench: Bench, contacts: Contacts) -> Figures:
    durations: dict[str, dict[str, float]] = {}
    async with bench.service(contacts) as service:
        bench.say(f"contact pages: reading all of {contacts.count:,}")
        cursors = await _cursors(service, contacts)
        for size in SIZES:
            bench.say(f"contact pages: {size:,} per page")
            durations[str(size)] = await _medians(service, contacts, cursors[size], size, bench.plan.shorter(30, 5))
    ratios = {size: places["last"] / places["first"] for size, places in durations.items()}
    return {"ms": durations, "last_vs_first": ratios, "contacts": contacts.count}


async def _cursors(service: Service, contacts: Contacts) -> dict[int, dict[str, Cursor]]:
    """The cursors of the full pages at each place, by size of the page; found by reading the list until it ends."""
    found: list[Cursor] = [None]
    read, last = 0, 0
    while last < len(found):
        last = len(found)
        count, following = await _page(service, contacts, found[-1], _LARGEST)
        read += count
        found += [following] if following else []
    if read < contacts.count:
        raise WrongFile(f"the list has {read} contacts instead of {contacts.count}")
    full = found[: read // _LARGEST]
    end = full[-1]
    for _ in range(_LARGEST // _SMALLEST - 1):
        _, end = await _page(service, contacts, end, _SMALLEST)
    middle = full[len(full) // 2]
    ends = {_LARGEST: full[-1], _SMALLEST: end}
    return {size: dict(zip(PLACES, (None, middle, ends[size]), strict=True)) for size in SIZES}


async def _page(service: Service, contacts: Contacts, cursor: Cursor, size: int) -> tuple[int, Cursor]:
    body = orjson.loads(await service.page(contacts.spaces[0], BOTH, size=size, cursor=cursor))
    return len(body["data"]), body["next_cursor"]


async def _medians(
    service: Service, contacts: Contacts, cursors: dict[str, Cursor], size: int, rounds: int
) -> dict[str, float]:
    """Milliseconds at each place. The places alternate; the first round warms the caches and is not counted."""
    durations: dict[str, list[float]] = {place: [] for place in PLACES}
    for _ in range(1 + rounds):
        for place in PLACES:
            started = perf_counter()
            await service.page(contacts.spaces[0], BOTH, size=size, cursor=cursors[place])
            durations[place].append((perf_counter() - started) * 1000)
    return {place: median(each[1:]) for place, each in durations.items()}

"""Requests per second of one process, and of a bare handler that runs the same SELECT as GET /contacts.

Eight connections send one request after another. The calls are those of several Spaces in turn.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from urllib.parse import urlencode

from service.settings import Settings
from tests.bench.bare import bare_handler
from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts, new_spaces
from tests.bench.load import LoadGenerator, load_generator
from tests.bench.ours import CONTACTS_PATH, EXPORTS_PATH, Service
from tests.bench.processes import cpu_seconds
from tests.bench.workloads import BASE, BOTH, EMPTY, YEAR, Workload

WITH_RIVAL = {"contacts": BASE, "contacts_both": BOTH}
CALLS = ("status", "list", *WITH_RIVAL)
_SPACES = 10
_EXPORTS = 10
_PAGE = 200
_WARM_UP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Target:
    """A process under load: its address, its id, and the paths and keys to call."""

    address: str
    pid: int
    calls: list[tuple[str, str]]


async def measure(bench: Bench) -> Figures:
    """Medians of up to three rounds. `cpu_ms` is the CPU time of the process per request, without Postgres."""
    contacts = await bench.contacts()
    measured: dict[str, list[Figures]] = {}
    async with _targets(bench, contacts) as targets, load_generator() as generator:
        for number in range(min(3, bench.plan.rounds)):
            for name, target in targets.items():
                bench.say(f"throughput: {name}, round {number + 1}")
                measured.setdefault(name, []).append(await _measure(generator, target, bench.plan.shorter(5, 1)))
    figures = {
        key: {name: median(each[key] for each in rounds) for name, rounds in measured.items()}
        for key in ("per_second", "p99_ms", "cpu_ms")
    }
    rates = figures["per_second"]
    return {"throughput": {**figures, "rate_vs_bare": {name: rates[name] / rates[f"bare_{name}"] for name in WITH_RIVAL}}}


async def _measure(generator: LoadGenerator, target: _Target, seconds: float) -> Figures:
    await generator.measure(target.address, target.calls, seconds=_WARM_UP_SECONDS)
    before = cpu_seconds(target.pid)
    load = await generator.measure(target.address, target.calls, seconds=seconds)
    cpu = cpu_seconds(target.pid) - before
    return {"per_second": load.per_second, "p99_ms": load.p99_ms, "cpu_ms": cpu * 1000 / load.count}


@asynccontextmanager
async def _targets(bench: Bench, contacts: Contacts) -> AsyncIterator[dict[str, _Target]]:
    """What is called, by name. The bare handler has as many connections to the database as the service has for contacts."""
    size = int(Settings.model_fields["contacts_pool_size"].default)
    async with bench.service(contacts) as service, bare_handler(contacts.dsn, size=size) as (bare, bare_pid):
        calls = await _calls_of_exports(service, contacts)
        calls |= {name: _calls_of_contacts(contacts, workload) for name, workload in WITH_RIVAL.items()}
        ours = {name: _Target(service.program.address, service.program.pid, each) for name, each in calls.items()}
        rivals = {
            f"bare_{name}": _Target(bare, bare_pid, _bare_calls(contacts, workload)) for name, workload in WITH_RIVAL.items()
        }
        yield ours | rivals


async def _calls_of_exports(service: Service, contacts: Contacts) -> dict[str, list[tuple[str, str]]]:
    """Status calls, and lists of ten exports each."""
    spaces = await new_spaces(contacts.dsn, _SPACES)
    status = []
    for space in spaces:
        for _ in range(_EXPORTS):
            export_id = await service.create(space, EMPTY, BOTH)
            await service.ended(space, export_id, pause=0.02)
            status.append((f"{EXPORTS_PATH}/{export_id}", space.key))
    return {"status": status, "list": [(EXPORTS_PATH, space.key) for space in spaces]}


def _calls_of_contacts(contacts: Contacts, workload: Workload) -> list[tuple[str, str]]:
    query = urlencode({**YEAR.body, **workload.body, "per_page": _PAGE})
    return [(f"{CONTACTS_PATH}?{query}", space.key) for space in contacts.spaces]


def _bare_calls(contacts: Contacts, workload: Workload) -> list[tuple[str, str]]:
    both = int(workload.emails)
    return [(f"/contacts?space={space.space_id}&per_page={_PAGE}&both={both}", space.key) for space in contacts.spaces]

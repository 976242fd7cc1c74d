"""The service compared with its rivals, alternating on the same rows: duration, CPU time, size."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import geometric_mean, median

from tests.bench.bench import Bench, Figures
from tests.bench.contents import Expected, expected
from tests.bench.dataset import Contacts
from tests.bench.ours import Export, Service
from tests.bench.processes import cpu_seconds, cpu_seconds_of_machine, cpu_seconds_of_postgres, cpu_seconds_of_this
from tests.bench.rivals import NAIVE, Rivals, Run
from tests.bench.workloads import WORKLOADS, YEAR, Dates, Workload


async def compare(bench: Bench) -> Figures:
    """Measure all workloads. A round is one export and one run of each rival; each round starts with a different one."""
    contacts = await bench.contacts()
    rivals = Rivals(contacts.dsn, bench.server.pid, bench.directory)
    names = []
    for name in bench.plan.rivals:
        lacking = rivals.missing(name)
        bench.missing.update(lacking)
        names += [name] if not lacking else []
    figures: Figures = {}
    async with bench.service(contacts) as service:
        for name in bench.plan.workloads:
            comparison = _Comparison(bench, contacts, service, rivals, WORKLOADS[name])
            figures[name] = await comparison.figures(names)
    means = {
        "psql_igzip1": _mean([each["ratios"].get("psql_igzip1") for each in figures.values()]),
        "cpu_vs_psql_igzip1": _mean([each["cpu_vs_psql_igzip1"] for each in figures.values()]),
    }
    return {"workloads": figures, "geomean": means}


def _mean(ratios: Sequence[float | None]) -> float | None:
    """The geometric mean of one ratio for each workload; None if one is missing."""
    known = [ratio for ratio in ratios if ratio]
    return geometric_mean(known) if len(known) == len(WORKLOADS) else None


class _Comparison:
    def __init__(self, bench: Bench, contacts: Contacts, service: Service, rivals: Rivals, workload: Workload) -> None:
        self._bench = bench
        self._contacts = contacts
        self._service = service
        self._rivals = rivals
        self._workload = workload
        self._exports: list[Export] = []
        self._runs: dict[str, list[Run]] = defaultdict(list)
        self._sizes: dict[str, int] = {}
        self._half: Dates
        self._expected: Expected

    async def figures(self, names: Sequence[str]) -> Figures:
        """Measure this workload."""
        space = self._contacts.spaces[0].space_id
        self._bench.say(f"{self._workload.name}: reading the expected content")
        self._half = await self._contacts.first(self._contacts.count // 2)
        self._expected = await expected(self._contacts.dsn, space, YEAR, self._workload)
        await self._ours()  # warms the caches; not counted
        self._exports.clear()
        others = _Others(self._service.program.pid, self._bench.server.pid)
        order = ["ours", *(name for name in names if name != NAIVE)]
        for number in range(self._bench.plan.rounds):
            self._bench.say(f"{self._workload.name}: round {number + 1} of {self._bench.plan.rounds}")
            start = number % len(order)
            for name in order[start:] + order[:start]:
                await (self._ours() if name == "ours" else self._rival(name))
        if NAIVE in names:
            self._bench.say(f"{self._workload.name}: naive, one round")
            await self._rival(NAIVE)
        return {**self._summary(), "others_busy_cores": others.busy_cores()}

    async def _ours(self) -> None:
        export = await self._service.export(self._contacts.spaces[0], YEAR, self._workload)
        assert export.file is not None
        await asyncio.to_thread(self._expected.check, export.file)
        export.file.unlink()
        self._exports.append(export)

    async def _rival(self, name: str) -> None:
        space = self._contacts.spaces[0].space_id
        run = await asyncio.to_thread(self._rivals.run, name, space, YEAR, self._workload, half=self._half)
        await asyncio.to_thread(self._expected.check, run.file)
        self._sizes[name] = run.file.stat().st_size
        run.file.unlink()
        self._runs[name].append(run)

    def _summary(self) -> Figures:
        seconds = median(export.seconds for export in self._exports)
        size, lines = self._exports[-1].size, self._expected.records.count
        rivals = {name: _rival_figures(runs, self._sizes[name]) for name, runs in self._runs.items()}
        cpu_server = median(export.cpu_server for export in self._exports)
        cpu = median(export.cpu_client + export.cpu_server for export in self._exports)
        of_psql = rivals.get("psql_igzip1", {})
        gzip6 = self._sizes.get("psql_gzip6")
        return {
            "lines": lines,
            "seconds": seconds,
            "all_seconds": [export.seconds for export in self._exports],
            "rows_per_second": lines / seconds,
            "cpu_client_s": median(export.cpu_client for export in self._exports),
            "cpu_server_s": cpu_server,
            "cpu_server_vs_psql": cpu_server / of_psql["cpu_server_s"] if of_psql else None,
            "cpu_vs_psql_igzip1": cpu / of_psql["cpu_s"] if of_psql else None,
            "first_part_s": median(export.first_part for export in self._exports),
            "size": size,
            "size_vs_gzip6": size / gzip6 if gzip6 else None,
            "ratios": {name: each["seconds"] / seconds for name, each in rivals.items()},
            "rivals": rivals,
        }


class _Others:
    """The load of other programs during the measurement, which should be zero."""

    def __init__(self, *running: int) -> None:
        self._running = running
        self._started, self._used = time.perf_counter(), self._used_by_others()

    def busy_cores(self) -> float:
        """Return the average number of cores that other programs kept busy since the start."""
        return max(0.0, (self._used_by_others() - self._used) / (time.perf_counter() - self._started))

    def _used_by_others(self) -> float:
        service, postmaster = self._running
        ours = cpu_seconds_of_this() + cpu_seconds(service) + cpu_seconds_of_postgres(postmaster)
        return cpu_seconds_of_machine() - ours


def _rival_figures(runs: Sequence[Run], size: int) -> Figures:
    return {
        "seconds": median(run.seconds for run in runs),
        "all_seconds": [run.seconds for run in runs],
        "cpu_client_s": median(run.cpu_client for run in runs),
        "cpu_server_s": median(run.cpu_server for run in runs),
        "cpu_s": median(run.cpu_client + run.cpu_server for run in runs),
        "fsync_s": median(run.fsync for run in runs),
        "size": size,
    }

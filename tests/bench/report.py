"""The results as one object with fixed keys, so that runs can be compared."""

import copy
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import contact_pages, latency, memory, throughput
from tests.bench.bench import Bench, Figures
from tests.bench.dataset import PARAMETERS
from tests.bench.rivals import ALL
from tests.bench.workloads import WORKLOADS

_OF_A_WORKLOAD = (
    "seconds",
    "rows_per_second",
    "cpu_client_s",
    "cpu_server_s",
    "cpu_vs_psql_igzip1",
    "first_part_s",
    "size_vs_gzip6",
)
_OF_A_SIDE = tuple(
    f"{name}_{which}" for name in ("export_cpu_s", "create_to_claim_p95_ms") for which in ("min", "median", "max")
)
_PAGES: Figures = {
    "ms": {str(size): dict.fromkeys(contact_pages.PLACES) for size in contact_pages.SIZES},
    "last_vs_first": {str(size): None for size in contact_pages.SIZES},
}
_COMPARED = ("without", "without_min", "without_max", "with", "with_min", "with_max", "within_spread")
_FIXED: Figures = {
    "workloads": {name: {**dict.fromkeys(_OF_A_WORKLOAD), "ratios": dict.fromkeys(ALL)} for name in WORKLOADS},
    "geomean": {"psql_igzip1": None, "cpu_vs_psql_igzip1": None},
    "memory": {"rss_mib": {str(size): None for size in memory.SIZES}},
    "latency": {
        "status_p50_ms": dict.fromkeys(latency.LEVELS),
        "status_p99_ms": dict.fromkeys(latency.LEVELS),
        "status_max_ms": {"first_openapi": None},
        "longest_stall_ms": None,
    },
    "queue": {"create_to_claim_p95_ms": None, "claim_ms_at_10000": None},
    "waiting": {"end_to_response_p50_ms": None, "end_to_response_p95_ms": None},
    "webhooks": {side: dict.fromkeys(_OF_A_SIDE) for side in ("without", "hanging")},
    "contact_pages": copy.deepcopy(_PAGES),
    "contact_pages_large": copy.deepcopy(_PAGES),
    "throughput": {
        **{key: dict.fromkeys(throughput.CALLS) for key in ("per_second", "p99_ms", "cpu_ms")},
        "rate_vs_bare": dict.fromkeys(throughput.WITH_RIVAL),
    },
    "custom_fields": {"filled_vs_null": None},
    "monitoring": {"export_cpu_s": dict.fromkeys(_COMPARED), "status_p99_ms": dict.fromkeys(_COMPARED)},
    "narrow_range_ms": {"small_table": None, "large_table": None},
    "replicas": {"rows_per_second": {"1": None, "2": None, "4": None}},
    "startup": {"health_s": None, "export_help_s": None},
}
"""Null means not measured; measurements may add keys."""


def new(bench: Bench) -> Figures:
    """Return a report without figures."""
    return {
        **copy.deepcopy(_FIXED),
        "contacts": bench.plan.contacts,
        "other_contacts": bench.plan.others,
        "rounds": bench.plan.rounds,
        "postgres_parameters": PARAMETERS,
        "machine": _machine(bench),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def add(report: Figures, figures: Figures) -> None:
    """Merge figures into a report."""
    for name, value in figures.items():
        if isinstance(value, dict) and isinstance(report.get(name), dict):
            add(report[name], value)
        else:
            report[name] = value


def rounded(report: Figures) -> Figures:
    """Round every float to five significant digits; further digits are noise."""
    return {name: _rounded(each) for name, each in report.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return rounded(value)
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _machine(bench: Bench) -> str:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{len(os.sched_getaffinity(0))} cores of {models[0] if models else platform.machine()}, {gib:.0f} GiB,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}, Postgres {bench.server.version}"
    )


def _commit() -> str | None:
    """Return the measured commit, with a plus sign if files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")

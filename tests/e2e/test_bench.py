"""The benchmark: its keys are stable, it detects a wrong file, and it removes all its files."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.contents import Expected, Multiset, WrongFile

ROOT = Path(__file__).parents[2]
RIVALS = ("psql_igzip1", "psql_gzip6", "pigz1", "naive", "psql_two_halves")
KEYS = [
    *(
        f"workloads.{workload}.{key}"
        for workload in ("base", "tokens", "both")
        for key in (
            *("seconds", "rows_per_second", "cpu_client_s", "cpu_server_s", "cpu_vs_psql_igzip1"),
            *("first_part_s", "size_vs_gzip6"),
            *(f"ratios.{rival}" for rival in RIVALS),
        )
    ),
    "geomean.psql_igzip1",
    "geomean.cpu_vs_psql_igzip1",
    *(f"memory.rss_mib.{contacts}" for contacts in (10_000, 100_000, 1_000_000)),
    *(f"latency.status_p99_ms.{level}" for level in ("idle", "exports_1", "exports_2", "exports_4", "exports_2_lists_2")),
    "latency.status_max_ms.first_openapi",
    "latency.longest_stall_ms",
    "queue.create_to_claim_p95_ms",
    "queue.claim_ms_at_10000",
    "waiting.end_to_response_p95_ms",
    *(f"webhooks.{side}.export_cpu_s_{which}" for side in ("without", "hanging") for which in ("min", "median", "max")),
    *(f"webhooks.{side}.create_to_claim_p95_ms_{which}" for side in ("without", "hanging") for which in ("min", "max")),
    *(f"contact_pages.ms.{size}.{place}" for size in (200, 5000) for place in ("first", "middle", "last")),
    *(f"{part}.last_vs_first.{size}" for part in ("contact_pages", "contact_pages_large") for size in (200, 5000)),
    *(
        f"throughput.{key}.{call}"
        for key in ("per_second", "p99_ms")
        for call in ("status", "list", "contacts", "contacts_both")
    ),
    *(f"throughput.rate_vs_bare.{call}" for call in ("contacts", "contacts_both")),
    "custom_fields.filled_vs_null",
    *(f"monitoring.{figure}.{kind}" for figure in ("export_cpu_s", "status_p99_ms") for kind in ("without", "with")),
    "narrow_range_ms.small_table",
    "narrow_range_ms.large_table",
    *(f"replicas.rows_per_second.{count}" for count in (1, 2, 4)),
    "startup.health_s",
    "startup.export_help_s",
    *("machine", "commit", "date"),
]
"""The keys of all published results. A figure that is measured differently needs a new key."""
MAY_BE_NULL = {
    "memory.rss_mib.100000",  # a quick run has fewer contacts
    "memory.rss_mib.1000000",
    "contact_pages_large.last_vs_first.200",  # only with --large
    "contact_pages_large.last_vs_first.5000",
    "latency.longest_stall_ms",  # null if the service logs none
    "commit",  # null outside a clone
}


def value(report: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key. Raises KeyError."""
    found: Any = report
    for name in key.split("."):
        found = found[name]
    return found


def _rivals_of(key: str) -> set[str]:
    """The rivals whose name ends the key of a figure, as in `ratios.pigz1` and `cpu_vs_psql_igzip1`."""
    return {rival for rival in RIVALS if key.endswith(rival)}


OF_A_TOOL = {
    "psql": ("psql_igzip1", "psql_gzip6", "pigz1", "psql_two_halves"),
    "igzip": ("psql_igzip1", "psql_two_halves"),
    "pigz": ("pigz1",),
    "psycopg": ("naive",),
}
"""Ratios that are null if this tool is missing; the result then lists the tool."""


@pytest.mark.bench
@pytest.mark.timeout(240)
def test_a_quick_run_reports_every_figure_and_removes_all_its_files(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--quick", "--json"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    report = json.loads(process.stdout)
    lacking = {rival for tool in report["missing"] for rival in OF_A_TOOL[tool.split()[0]]}
    absent = [key for key in KEYS if value(report, key) is None and not lacking & _rivals_of(key)]
    assert set(absent) <= MAY_BE_NULL
    # The embedded Postgres keeps copies of its programs for later starts if root cannot run them in place.
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("contact-exports-postgres-")] == []


LINES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]


@pytest.fixture
def expected() -> Expected:
    """The expected content of a file of `LINES`."""
    records = Multiset()
    for line in LINES:
        records.add(line)
    return Expected(records)


@pytest.mark.parametrize("lines", [LINES, LINES[::-1], [{"name": "a", "id": 1}, LINES[1]]])
def test_a_file_is_correct_regardless_of_the_order_of_lines_and_keys(
    tmp_path: Path, expected: Expected, lines: list[dict[str, object]]
) -> None:
    expected.check(write(tmp_path / "file", lines))


@pytest.mark.parametrize(
    "lines", [[], LINES[:1], [*LINES, LINES[0]], [LINES[0], LINES[0]], [LINES[0], {"id": 2, "name": "c"}]]
)
def test_a_file_with_a_missing_duplicate_or_different_line_is_wrong(
    tmp_path: Path, expected: Expected, lines: list[dict[str, object]]
) -> None:
    expected.check(write(tmp_path / "right", LINES))
    with pytest.raises(WrongFile):
        expected.check(write(tmp_path / "file", lines))


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    """Write a file as an export does."""
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))
    return path

"""Hand-written exports: psql's COPY of row_to_json through a compressor, and a script that reads row by row.

The SQL is as fast as possible: the filters, order, indexes and keys of the service, arrays as correlated subqueries on the
covering indexes, no JIT. Format csv with control characters as quote and delimiter produces clean lines, because JSON
contains no control characters.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.embedded.postgres import find_binaries, psql_path
from tests.bench.processes import cpu_seconds_of_postgres
from tests.bench.workloads import Dates, Workload

PACKAGES = {
    "psql": "Debian: postgresql-client",
    "gzip": "Debian: gzip",
    "pigz": "Debian: pigz",
    "igzip": "Debian: isal",
    "psycopg": "pip: psycopg[binary]",
}
"""The package of each tool."""

COMPRESSORS: Mapping[str, tuple[str, ...]] = {
    "psql_igzip1": ("igzip", "-1", "-c"),
    "psql_gzip6": ("gzip", "-6", "-c"),
    "pigz1": ("pigz", "-1", "-c"),
}
"""The rivals that are a single pipe; the keys are their names in the results."""
TWO_HALVES = "psql_two_halves"
NAIVE = "naive"
ALL = (*COMPRESSORS, NAIVE, TWO_HALVES)

_OPTIONS = "-c jit=off -c statement_timeout=30min"
_PSQL_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "PGOPTIONS": _OPTIONS}

_TOKENS = """,
       ARRAY(SELECT t.token FROM comet_tokens t WHERE t.contact_id = c.id
              ORDER BY t.last_seen_at DESC NULLS LAST, t.token COLLATE "C" LIMIT 5) AS comet_tokens"""
_EMAILS = """,
       ARRAY(SELECT e.email FROM contact_emails e WHERE e.contact_id = c.id
              ORDER BY e.last_seen_at DESC NULLS LAST, e.email COLLATE "C") AS emails"""
_FROM = """
  FROM contacts c
 WHERE c.space_id = {space_id} AND c.created_at >= '{start}' AND c.created_at < '{end}' AND c.merged_into IS NULL
 ORDER BY c.created_at, c.id"""


class RivalFailed(Exception):
    """A program of a rival failed; it has printed its error."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a rival: wall-clock and CPU seconds, and the seconds of a later fsync of the file."""

    seconds: float
    cpu_client: float
    cpu_server: float
    fsync: float
    file: Path


class Rivals:
    """The rivals, on one database."""

    def __init__(self, dsn: str, postmaster: int, directory: Path) -> None:
        self._dsn = dsn
        self._postmaster = postmaster
        self._directory = directory
        self._psql = psql_path(find_binaries())

    def missing(self, name: str) -> list[str]:
        """Return the tools that this rival needs and that are missing, each with its package."""
        if name == NAIVE:
            return [] if importlib.util.find_spec("psycopg") else [_named("psycopg")]
        compressor = COMPRESSORS["psql_igzip1" if name == TWO_HALVES else name][0]
        return self.missing_psql() + ([] if shutil.which(compressor) else [_named(compressor)])

    def missing_psql(self) -> list[str]:
        """Return psql with its package if it is missing."""
        return [] if self._psql else [_named("psql")]

    def run(self, name: str, space_id: int, dates: Dates, workload: Workload, *, half: Dates | None = None) -> Run:
        """Run a rival until it finishes, then fsync its file. `half`: the first half of the dates, for two halves."""
        file = self._directory / f"{name}.gz"
        server = cpu_seconds_of_postgres(self._postmaster)
        started, children = time.perf_counter(), _cpu_of_children()
        if name == NAIVE:
            _wait([self._naive(select(space_id, dates, workload), file)])
        elif name == TWO_HALVES:
            assert half is not None
            second = self._directory / f"{name}.second.gz"
            parts = [(half, file), (Dates(half.end, dates.end), second)]
            _wait([self._pipe(COMPRESSORS["psql_igzip1"], select(space_id, part, workload), to) for part, to in parts])
            _append(second, file)
        else:
            _wait([self._pipe(COMPRESSORS[name], select(space_id, dates, workload), file)])
        seconds, client = time.perf_counter() - started, _cpu_of_children() - children
        server = cpu_seconds_of_postgres(self._postmaster) - server
        return Run(seconds, client, server, _fsync(file), file)

    def copy_to_nowhere(self, copy: str) -> Run:
        """Run psql alone on a COPY statement and discard its output."""
        server = cpu_seconds_of_postgres(self._postmaster)
        started, children = time.perf_counter(), _cpu_of_children()
        _wait([[self._start_psql(copy, subprocess.DEVNULL)]])
        seconds, client = time.perf_counter() - started, _cpu_of_children() - children
        return Run(seconds, client, cpu_seconds_of_postgres(self._postmaster) - server, 0.0, Path(os.devnull))

    def _pipe(self, compressor: Sequence[str], query: str, file: Path) -> "list[subprocess.Popen[bytes]]":
        psql = self._start_psql(copy_of_json(query), subprocess.PIPE)
        with file.open("wb") as output:
            compressing = subprocess.Popen(compressor, stdin=psql.stdout, stdout=output)
        assert psql.stdout is not None
        psql.stdout.close()
        return [psql, compressing]

    def _start_psql(self, command: str, output: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([str(self._psql), "-X", self._dsn, "-c", command], stdout=output, env=_PSQL_ENVIRONMENT)

    def _naive(self, query: str, file: Path) -> "list[subprocess.Popen[bytes]]":
        script = [sys.executable, "-m", "tests.bench.naive", self._dsn, query, str(file)]
        return [subprocess.Popen(script, env={**os.environ, "PGOPTIONS": _OPTIONS})]


def select(space_id: int, dates: Dates, workload: Workload) -> str:
    """Return the query for the lines of an export, arrays as arrays."""
    extras = _TOKENS * workload.tokens + _EMAILS * workload.emails
    place = _FROM.format(space_id=space_id, start=dates.start.isoformat(), end=dates.end.isoformat())
    return f"SELECT c.id, c.email, c.name, c.phone, c.location{extras}{place}"


def copy_of_json(query: str) -> str:
    """Return the COPY statement that produces a line of JSON per row."""
    return f"COPY (SELECT row_to_json(line) FROM ({query}) line) TO STDOUT (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')"


def copy_of_columns(query: str) -> str:
    """Return the COPY statement that is cheapest for the server."""
    return f"COPY ({query}) TO STDOUT (FORMAT binary)"


def _named(tool: str) -> str:
    return f"{tool} ({PACKAGES[tool]})"


def _wait(pipes: "Sequence[Sequence[subprocess.Popen[bytes]]]") -> None:
    processes = [process for pipe in pipes for process in pipe]
    for process in processes:
        process.wait()
    for process in processes:
        if process.returncode != 0:
            raise RivalFailed(f"{process.args!r} ended with {process.returncode}")


def _append(source: Path, target: Path) -> None:
    with source.open("rb") as read, target.open("ab") as written:
        shutil.copyfileobj(read, written, 1024 * 1024)
    source.unlink()


def _fsync(file: Path) -> float:
    started = time.perf_counter()
    with file.open("rb") as written:
        os.fsync(written.fileno())
    return time.perf_counter() - started


def _cpu_of_children() -> float:
    """Return the CPU time of all children that were waited for: only processes of the pipe end during a run."""
    times = os.times()
    return times.children_user + times.children_system

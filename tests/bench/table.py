"""The results as tables, one per measured part."""

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from tests.bench.bench import Figures
from tests.bench.contact_pages import PLACES

_MIB = 2**20
_LEAST_WIDTH = 130
"""Columns. Wide enough that no table is truncated in a file."""


def show(result: Figures) -> None:
    """Print the results; columns and rows have the names of the JSON keys."""
    console = Console(highlight=False, soft_wrap=True)
    console.width = max(console.width, _LEAST_WIDTH)
    console.print(f"[bold]{result['machine']}[/]\ncommit {result['commit']}, {result['date']}")
    for tool in result["missing"]:
        console.print(f"[yellow]missing: {tool}[/]")
    for part in _PARTS:
        for table in part(result):
            console.print(table)
    for name, plan in (result["narrow_range_ms"].get("plan") or {}).items():
        console.print(f"\n[bold]Plan, {name.replace('_', ' ')}[/]", *plan, sep="\n", markup=True)


def _workloads(result: Figures) -> Iterable[Table]:
    measured = {name: each for name, each in result["workloads"].items() if each["seconds"] is not None}
    if not measured:
        return
    lines = max(each["lines"] for each in measured.values())
    title = f"{lines:,} contacts into a file, checked; the service includes fsync, the rivals' fsync is a separate column"
    times = ("s", "times ours", "rows/s", "CPU s client", "server", "first part s")
    table = _table(title, ("workload", "by", *times, "MiB", "of gzip -6", "fsync s"))
    for name, each in measured.items():
        _contender(table, name, "ours", each, each)
        for rival, its in each["rivals"].items():
            _contender(table, name, rival, its, each)
        table.add_section()
    yield table
    judged = {
        "geometric mean of the ratios": result["geomean"]["psql_igzip1"],
        "geometric mean of the CPU time, ours over its": result["geomean"]["cpu_vs_psql_igzip1"],
    }
    for name, each in measured.items():
        if its := each["rivals"].get("psql_igzip1"):
            judged[f"{name}: CPU time of client and server, ours over its"] = each["cpu_vs_psql_igzip1"]
            judged[f"{name}: the server's CPU time, ours over its"] = each["cpu_server_vs_psql"]
            judged[f"{name}: size, ours over its"] = each["size"] / its["size"]
        judged[f"{name}: cores kept busy by other programs"] = each["others_busy_cores"]
    yield _pairs("Against psql | igzip -1", judged)


def _contender(table: Table, workload: str, by: str, its: Figures, ours: Figures) -> None:
    gzip6 = ours["rivals"].get("psql_gzip6")
    table.add_row(
        workload,
        by,
        _number(its["seconds"]),
        _number(its["seconds"] / ours["seconds"]),
        f"{ours['lines'] / its['seconds']:,.0f}",
        _number(its["cpu_client_s"]),
        _number(its["cpu_server_s"]),
        _number(its.get("first_part_s")),
        _number(its["size"] / _MIB),
        _number(its["size"] / gzip6["size"] if gzip6 else None),
        _number(its.get("fsync_s")),
    )


def _s3(result: Figures) -> Iterable[Table]:
    yield from _by_workload("With an S3 server on the same cores, s (the rival: a file, then one PUT)", result.get("s3"))


def _stages(result: Figures) -> Iterable[Table]:
    yield from _by_workload("Each step alone, s per million contacts", result.get("stages"))


def _memory(result: Figures) -> Iterable[Table]:
    peaks = {size: peak for size, peak in result["memory"]["rss_mib"].items() if peak is not None}
    if not peaks:
        return
    rows = {f"{int(size):,} contacts": peak for size, peak in peaks.items()}
    if base := peaks.get("100000"):
        rows |= {f"{int(size):,} above 100,000": peak - base for size, peak in peaks.items() if int(size) > 100_000}
    yield _pairs("Peak resident memory of the service with tokens and email addresses, MiB", rows)


def _latency(result: Figures) -> Iterable[Table]:
    figures = result["latency"]
    levels = figures["status_p99_ms"]
    if levels["idle"] is None:
        return
    table = _table("Status calls, ms", ("while", "p50", "p99", "longest"))
    for level in levels:
        percentiles = (figures[name][level] for name in ("status_p50_ms", "status_p99_ms", "status_max_ms"))
        table.add_row(level, *map(_number, percentiles))
    yield table
    others = {
        "longest status call at the first /openapi.json, ms": figures["status_max_ms"]["first_openapi"],
        "longest event-loop lag, logged by the service, ms": figures["longest_stall_ms"],
    }
    yield _pairs("Once", others)


def _queue(result: Figures) -> Iterable[Table]:
    figures = result["queue"]
    if figures["claim_ms_at_10000"] is not None:
        yield _pairs("Queue", figures)


def _waiting(result: Figures) -> Iterable[Table]:
    figures = result["waiting"]
    if figures["end_to_response_p95_ms"] is not None:
        yield _pairs("Clients that wait for the end of an export", figures)


def _webhooks(result: Figures) -> Iterable[Table]:
    figures = result["webhooks"]
    if figures["without"]["export_cpu_s_median"] is not None:
        yield from _by_workload("Exports without webhooks, and while 1,000 endpoints hang", figures)


def _monitoring(result: Figures) -> Iterable[Table]:
    for name, figures in result["monitoring"].items():
        if figures["with"] is not None:
            yield _pairs(f"Metrics read every second and the page open: {name}", figures)


def _narrow(result: Figures) -> Iterable[Table]:
    figures = result["narrow_range_ms"]
    if figures["small_table"] is not None:
        rows = {f"out of {count:,}": figures[name] for name, count in figures["contacts"].items()}
        yield _pairs("Export of 1,000 contacts, ms", rows)


def _replicas(result: Figures) -> Iterable[Table]:
    figures = result["replicas"]["rows_per_second"]
    if figures["1"] is not None:
        yield _pairs("Rows per second, eight exports at once, by number of processes", figures)


def _startup(result: Figures) -> Iterable[Table]:
    figures = result["startup"]
    if figures["health_s"] is not None:
        yield _pairs("Commands that are started often", figures)


def _contact_pages(result: Figures) -> Iterable[Table]:
    for figures in (result["contact_pages"], result["contact_pages_large"]):
        if figures["last_vs_first"]["200"] is not None:
            table = _table(
                f"Pages of {figures['contacts']:,} contacts with both options, ms", ("per page", *PLACES, "last/first")
            )
            for size, places in figures["ms"].items():
                table.add_row(size, *map(_number, places.values()), _number(figures["last_vs_first"][size]))
            yield table


def _throughput(result: Figures) -> Iterable[Table]:
    figures = result["throughput"]
    if figures["per_second"]["status"] is None:
        return
    table = _table(
        "One process under load", ("", "requests/s", "p99 ms", "CPU ms per request", "of the bare handler's rate")
    )
    for name in figures["per_second"]:
        measured = (figures[key][name] for key in ("per_second", "p99_ms", "cpu_ms"))
        table.add_row(name, *map(_number, measured), _number(figures["rate_vs_bare"].get(name)))
    yield table


def _custom_fields(result: Figures) -> Iterable[Table]:
    figures = result["custom_fields"]
    if figures["filled_vs_null"] is None:
        return
    table = _table("Exports that do not ask for custom fields", ("custom fields", "s", "CPU s server"))
    for kind, seconds in figures["seconds"].items():
        table.add_row(kind, _number(seconds), _number(figures["cpu_server_s"][kind]))
    table.add_row("filled in relation to null", _number(figures["filled_vs_null"]), "")
    yield table


def _by_workload(title: str, figures: Figures | None) -> Iterable[Table]:
    if not figures:
        return
    table = _table(title, ("", *figures))
    for name in next(iter(figures.values())):
        table.add_row(name, *(_number(each[name]) for each in figures.values()))
    yield table


def _pairs(title: str, rows: Mapping[str, float | None]) -> Table:
    table = _table(title, ("", ""))
    table.show_header = False
    for name, value in rows.items():
        table.add_row(name, _number(value))
    return table


def _table(title: str, columns: Iterable[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_PARTS = (
    *(_workloads, _s3, _stages, _memory, _latency, _queue, _waiting, _webhooks, _monitoring),
    *(_contact_pages, _throughput, _custom_fields, _narrow, _replicas, _startup),
)

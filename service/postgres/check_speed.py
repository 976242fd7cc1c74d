"""How fast an export of the biggest Space is: its plan, the indexes that it lacks, and the rows that it reads per second."""

import time
from contextlib import aclosing, nullcontext
from datetime import UTC, datetime
from typing import assert_never
from uuid import UUID

import asyncpg

from service.failures import SourceData, SourceSlow, SourceUnreadable
from service.model import END_OF_TIME, Claim, Extra, Extras, Window
from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.check_statistics import check_statistics
from service.postgres.contact_source import ContactSource
from service.postgres.findings import Report, Speed
from service.postgres.raising_columns import SAMPLE
from service.postgres.snapshot import Snapshot, estimated_rows, export_query, top_nodes
from service.postgres.trial_plans import WITHOUT_INDEXES, plan_without
from service.postgres.wanted_indexes import Unindexable, WantedIndex, is_missing, is_sorted, wanted_indexes
from sql import statement

MEASURED_ROWS = 5_000
"""Rows that a measurement reads."""
_FETCH_ROWS = 2_500
_ROW_BYTES = 400
_WHOLE = Window(datetime(1, 1, 2, tzinfo=UTC), END_OF_TIME)
_EXTRAS: tuple[Extras, ...] = ((), tuple(Extra))
_WITH_INDEXES = {"seqscan", "bitmapscan", "sort", "hashjoin", "mergejoin"}
_SORTED = (
    "The server sorts all contacts of the window before it returns the first one, because space_id comes from another table"
    " than created_at."
)
_OVERLAP = "Tell consumers to overlap their exports and to drop repeated ids."
UNKNOWN = {
    "no_right": (
        "the role may not see the transactions of other sessions",
        "GRANT pg_read_all_stats TO the role of the service;",
    ),
    "standby": ("a standby does not see the transactions of the primary", f"Read from the primary, or: {_OVERLAP}"),
    "not_tracked": (
        "a session has track_activities = off",
        "ALTER ROLE … RESET track_activities; for the role of that session",
    ),
    "prepared_transaction": ("prepared transactions exist", "SELECT * FROM pg_prepared_xacts; and end them"),
    "subscription": (
        "rows arrive through a subscription long after their creation",
        f"Read from the publisher, or: {_OVERLAP}",
    ),
    "foreign_table": ("contacts reads a foreign table", _OVERLAP),
    "materialized_view": ("contacts reads a materialized view, which shows new contacts after a refresh", _OVERLAP),
    "function": ("contacts reads a function that returns rows", f"Replace the function by a view, or: {_OVERLAP}"),
}
"""Why `complete_until` is null, by the words of the statement `source_horizon`, and what to do."""
_STORE_SPACE = "If a Space has more than 100,000 contacts, store space_id in their table, or use a materialized view."


async def biggest_space(reads: BoundedReads) -> int | None:
    """The Space with the most contacts, by the planner's estimates for Spaces in a sample and in statistics.

    None if no Space is found in time. Raises the driver's errors.
    """
    candidates: list[int] = []
    for name, arguments in (("spaces_in_statistics", ()), ("spaces_in_sample", (SAMPLE,))):
        try:
            rows = await reads.rows(statement(name), *arguments)
        except (OutOfTime, asyncpg.DataError, asyncpg.RaiseError):  # of the contacts: the check of their rows reports it
            continue
        candidates += [row["space_id"] for row in rows]
    try:
        sizes = {space: await estimated_rows(reads.connection, space, _WHOLE) for space in dict.fromkeys(candidates)}
    except asyncpg.QueryCanceledError:
        return candidates[0]
    return max(sizes, key=lambda space: sizes[space], default=None)


async def check_plan(reads: BoundedReads, space_id: int, report: Report) -> None:
    """Name the missing indexes of an export of this Space, and missing statistics. Raises OutOfTime, the driver's errors."""
    connection = reads.connection
    query, _ = await export_query(connection, (Extra.COMET_TOKENS, Extra.EMAILS))
    arguments = (space_id, _WHOLE.start, _WHOLE.end)
    without = await plan_without(WITHOUT_INDEXES, reads, query, *arguments)
    with_indexes = await plan_without(_WITH_INDEXES, reads, query, *arguments)
    report.plan = top_nodes(await plan_without({"sort"}, reads, query, *arguments))
    contacts_have_index = True
    indexed: set[tuple[str, str]] = set()
    for wanted in wanted_indexes(without, space_id):
        match wanted:
            case Unindexable():
                report.warn("no_index_possible", wanted.serves, f"{wanted.reason}.", wanted.mend)
            case WantedIndex():
                missing = is_missing(wanted, with_indexes) and not await _exists(connection, wanted)
                contacts_have_index &= not (missing and wanted.serves == "contacts")
                if missing:
                    await _report_missing(connection, wanted, report)
                else:
                    indexed.add((wanted.schema, wanted.table))
            case _:
                assert_never(wanted)
    reported = any(finding.code == "no_index_possible" and finding.place == "contacts" for finding in report.findings)
    if contacts_have_index and not reported and is_sorted(with_indexes):
        report.warn("sorted", "contacts", _SORTED, _STORE_SPACE)
    await check_statistics(reads, indexed, report)


async def _exists(connection: asyncpg.Connection, wanted: WantedIndex) -> bool:
    """Whether the table has the index, although a plan does not use it: for a few rows the server may choose any plan."""
    indexes = await connection.fetch(statement("indexes_of_table"), wanted.schema, wanted.table)
    return any(wanted.is_like(index["keys"], index["predicate"]) for index in indexes)


async def _report_missing(connection: asyncpg.Connection, wanted: WantedIndex, report: Report) -> None:
    table = await connection.fetchrow(statement("table_to_index"), wanted.schema, wanted.table)
    assert table is not None
    purpose = "the contacts of a Space in order of creation" if wanted.serves == "contacts" else "the rows of a contact"
    text = f"No index of {table['name']} finds {purpose}, so an export reads all of its rows"
    text += "." if wanted.serves == "contacts" else " for each contact."
    if table["is_foreign"]:
        mend = f"Create an index on {wanted.definition()} of the remote table."
    elif wanted.impossible:
        mend = (
            "Write column AT TIME ZONE 'UTC' in the view instead of a cast to timestamptz, which depends on the session."
            " Then run the check again."
        )
    else:
        concurrently = "" if table["is_partitioned"] else " CONCURRENTLY"
        mend = f"CREATE INDEX{concurrently} ON {table['name']} {wanted.definition()};"
    if any(finding.mend == mend for finding in report.findings):
        return
    if wanted.has_expression and not wanted.impossible:
        text += f" Then run ANALYZE {table['name']}, because an index on an expression has no statistics before."
    report.warn("index_missing", wanted.serves, text, mend)


async def check_horizon(source: ContactSource, report: Report) -> None:
    """Find out what complete_until would be now, and why it would be null. Raises SourceUnavailable."""
    async with source.snapshot(_claim(report.space_id or 0)) as snapshot:
        report.complete_until = snapshot.complete_until
        for reason in snapshot.unknown_because:
            why, mend = UNKNOWN[reason]
            report.warn("complete_until_unknown", "database", f"complete_until is null, because {why}.", mend)


async def check_speed(source: ContactSource, space_id: int, report: Report) -> None:
    """Measure exports of a Space, without and with all extras. Raises SourceUnavailable if the server is silent."""
    for extras in _EXTRAS:
        name = "no extras" if not extras else "all extras"
        rows = 0
        try:
            async with source.snapshot(_claim(space_id, extras)) as snapshot:
                rows = await _measure(snapshot, name, source.fetch_timeout.total_seconds(), report)
        except SourceSlow:
            text = f"An export with {name} does not return its first rows in {source.fetch_timeout.total_seconds():g} s."
            mend = (
                "Create the missing indexes and run ANALYZE (see the other findings);"
                " look for a sort, an aggregate or a slow function in the view."
            )
            report.fault("endless", "contacts", text, mend)
            return
        except (SourceData, SourceUnreadable) as failure:
            text = f"An export of the Space {space_id} with {name} fails: {failure.detail}."
            report.fault("export_fails", "contacts", text, "Correct the values in the view; see the other findings.")
            return
        if rows == 0:
            return


async def _measure(snapshot: Snapshot, name: str, most_seconds: float, report: Report) -> int:
    began = time.monotonic()
    first, rows = 0.0, 0
    async with aclosing(snapshot.batches(lambda: nullcontext(_FETCH_ROWS))) as batches:
        async for batch in batches:
            rows += len(batch)
            first = first or time.monotonic() - began
            snapshot.pace(len(batch), _ROW_BYTES * len(batch))
            if rows >= MEASURED_ROWS or time.monotonic() - began > most_seconds:
                break
    report.speeds.append(Speed(name, rows, first, time.monotonic() - began))
    return rows


def _claim(space_id: int, extras: Extras = ()) -> Claim:
    """A claim without a row in the job table."""
    return Claim(UUID(int=0), 0, space_id, 1, alone=False, object_name="", window=_WHOLE, extras=extras)

"""Finds columns of a view that raise an error, and the first row that does."""

import asyncpg

from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.driver_errors import describe, unavailable
from service.postgres.findings import Report
from sql import statement

SAMPLE = 20_000
"""Rows that a check reads first, in the order in which the server returns them."""
_CASTABLE = (
    "Return NULL instead of raising: CASE WHEN pg_input_is_valid(value, 'type') THEN value::type END (Postgres 16 or newer)."
    " The same function finds the rows."
)


async def evaluates(reads: BoundedReads, relation: str, report: Report) -> bool:
    """Whether all columns of the first rows can be computed in time without an error."""
    try:
        return not await locate(reads, relation, SAMPLE, report)
    except OutOfTime:
        seconds = f"{reads.each.total_seconds():g} s"
        text = f"{relation} did not return its first {SAMPLE:,} rows in {seconds}, so they are not checked."
        mend = "Look for a sort, an aggregate or a slow function in the view; give the command more time (--seconds)."
        report.warn("slow", relation, text, mend)
        return False


async def locate(reads: BoundedReads, relation: str, limit: int | None, report: Report) -> bool:
    """Report the columns that raise an error among the first rows, and the first row that does. Raises OutOfTime.

    The server evaluates a column that calls a volatile function with every other column. Then the relation is named.
    """
    names = next(each.columns for each in report.relations if each.found_as.endswith(f".{relation}"))
    raising: dict[str, tuple[str, asyncpg.PostgresError]] = {}
    for column in names:
        text = statement("one_column").replace("COLUMN", column.name.replace('"', '""')).replace("RELATION", relation)
        if (error := await _error_of(reads, text, limit)) is not None:
            raising[f"{relation}.{column.name}"] = text, error
    if len(raising) == len(names):
        raising = {relation: next(iter(raising.values()))}
    for place, (text, error) in raising.items():
        row = await _first_bad_row(reads, text, SAMPLE if limit is None else limit)
        report.fault("raises", place, f"{place} raises an error in row {row}: {describe(error)}.", _CASTABLE)
    return bool(raising)


async def _first_bad_row(reads: BoundedReads, text: str, most: int) -> str:
    """The number of the first row with an error, in the order of the server; found by halving."""
    good, bad = 0, most
    if await _error_of(reads, text, most) is None:
        return f"{most:,} or later"
    try:
        while bad - good > 1:
            middle = (good + bad) // 2
            if await _error_of(reads, text, middle) is None:
                good = middle
            else:
                bad = middle
    except OutOfTime:
        return f"{good + 1:,} or later"
    return f"{bad:,}"


async def _error_of(reads: BoundedReads, text: str, limit: int | None) -> asyncpg.PostgresError | None:
    try:
        await reads.row(text, limit)
    except asyncpg.PostgresError as error:
        if unavailable(error):
            raise
        return error
    return None

"""Finds tables without statistics: the planner then guesses how many rows a contact has, and an export can be slow."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from uuid import UUID

from service.postgres.bounded_reads import BoundedReads
from service.postgres.contact_ids import IdType, read_contact_ids
from service.postgres.findings import Report
from service.postgres.relations import CONTRACT
from service.postgres.trial_plans import WITHOUT_INDEXES, plan_without
from service.postgres.wanted_indexes import Plan
from sql import statement

_LOOKUPS = ("contact_emails", "comet_tokens")
_SOME_ID: Mapping[IdType, object] = {IdType.BIGINT: 0, IdType.UUID: UUID(int=0), IdType.TEXT: ""}
_GUESSED_SHARE = 1 / 200
"""The share of rows that the planner expects for one value of an expression or column of which it has no statistics."""
_LEAST_ROWS = 2_000
"""Tables with fewer rows are quick with any plan, and the share would be lost in rounding."""


async def check_statistics(reads: BoundedReads, indexed: AbstractSet[tuple[str, str]], report: Report) -> None:
    """Name the tables that were never analyzed, and those with an index on an expression that has no statistics.

    `indexed`: schema and name of tables that have the index that an export needs. Raises OutOfTime, the driver's errors.
    """
    beneath = [row for name in CONTRACT for row in await reads.rows(statement("tables_beneath"), name)]
    guessed = indexed & {table for name in _LOOKUPS for table in await _guessed(reads, name)}
    for row in {row["name"]: row for row in beneath}.values():
        name = row["name"]
        if row["never_analyzed"]:
            text = f"{name} was never analyzed, so the planner knows neither its size nor its values."
        elif (row["schema"], row["table"]) in guessed:
            text = (
                f"The planner has no statistics of the values in an index of {name}, so it guesses 1 in 200 rows for each."
            )
        else:
            continue
        report.warn("not_analyzed", name, text, f"ANALYZE {name};")


async def _guessed(reads: BoundedReads, relation: str) -> set[tuple[str, str]]:
    """Tables beneath a relation of which the planner expects the default share of rows for one contact."""
    ids = (await read_contact_ids(reads.connection)).type
    whole = _scanned(await plan_without(WITHOUT_INDEXES, reads, f"SELECT FROM {relation}"))
    query = f"SELECT FROM {relation} WHERE contact_id = $1"
    one = _scanned(await plan_without(WITHOUT_INDEXES, reads, query, _SOME_ID[ids]))
    return {
        key[:2]
        for key, rows in whole.items()
        if rows >= _LEAST_ROWS and key in one and abs(one[key] - rows * _GUESSED_SHARE) <= 1
    }


def _scanned(plan: Plan) -> dict[tuple[str, str, str], float]:
    """The rows that a plan expects from each scan, by schema, table and alias."""
    found: dict[tuple[str, str, str], float] = {}
    if "Relation Name" in plan:
        found[plan["Schema"], plan["Relation Name"], plan["Alias"]] = plan["Plan Rows"]
    for child in plan.get("Plans", ()):
        found |= _scanned(child)
    return found

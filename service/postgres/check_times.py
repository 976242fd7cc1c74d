"""Finds times in a view whose value depends on the time zone of the session that reads them."""

import re

from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.findings import Report
from service.postgres.relations import CONTRACT
from service.postgres.trial_plans import plan_without
from service.postgres.wanted_indexes import Plan

_CAST = re.compile(r"\)::timestamp with time zone")
"""The cast of an expression, not of a constant. The planner writes the former in parentheses."""
_INSTANT = ("timestamp with time zone",)
_MEND = (
    "In the view: column AT TIME ZONE 'Europe/Berlin', with the zone in which the times are stored, instead of a cast to"
    " timestamptz. Only text that names its zone may be cast."
)


async def check_times(reads: BoundedReads, relation: str, report: Report) -> None:
    """Report the columns of a relation that cast to timestamptz. Raises the driver's errors."""
    for column in (name for name, types in CONTRACT[relation].items() if types == _INSTANT):
        try:
            plan = await plan_without(set(), reads, f"SELECT {column} FROM {relation}")  # noqa: S608 - of the contract
        except OutOfTime:
            return
        if _casts(plan):
            place = f"{relation}.{column}"
            text = f"{place} is cast to timestamptz, so its value depends on the time zone of the session that reads it."
            report.warn("session_time", place, text, _MEND)


def _casts(plan: Plan) -> bool:
    """Whether a node of the plan returns the cast of an expression."""
    return any(map(_CAST.search, plan.get("Output", ()))) or any(map(_casts, plan.get("Plans", ())))

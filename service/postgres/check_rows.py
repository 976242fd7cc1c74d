"""Checks of the rows of the three relations: the first ones always, all of them if that is quick."""

from collections.abc import Iterable
from dataclasses import dataclass

import asyncpg

from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.driver_errors import unavailable
from service.postgres.findings import Finding, Level, Report
from service.postgres.raising_columns import SAMPLE, evaluates, locate
from service.postgres.relations import CONTRACT
from sql import statement


@dataclass(frozen=True, slots=True)
class _Problem:
    """A column of a statement that counts bad rows, and what it means if it is not 0. {} in `text` is the number."""

    column: str
    level: Level
    place: str
    text: str
    mend: str


@dataclass(frozen=True, slots=True)
class _Check:
    """A statement that counts bad rows, the relations that it reads, and what it counts."""

    name: str
    relations: tuple[str, ...]
    problems: tuple[_Problem, ...]


def _lost(relation: str) -> tuple[_Problem, ...]:
    return (
        _Problem(
            "without",
            Level.WARNING,
            f"{relation}.contact_id",
            f"{{}} rows of {relation} have no contact, so no file shows them",
            "Nothing, while tenants have no Space or contacts leaves people out (such as deleted ones)."
            " Otherwise correct contact_id in the view: it must be a contacts.id.",
        ),
        _Problem(
            "merged",
            Level.FAULT,
            f"{relation}.contact_id",
            f"{{}} rows of {relation} have the id of a merged contact, so no file shows them",
            "Give these rows the id of the survivor in the view: coalesce(merged_into, id) of the contact.",
        ),
    )


_CHECKS = (
    _Check(
        "bad_contacts",
        ("contacts",),
        (
            _Problem(
                "null_ids",
                Level.FAULT,
                "contacts.id",
                "contacts.id is null in {} rows, so exports fail as source_data",
                "Correct id in the view, or add WHERE … IS NOT NULL to it.",
            ),
            _Problem(
                "null_spaces",
                Level.WARNING,
                "contacts.space_id",
                "contacts.space_id is null in {} rows, so no file has them",
                "Map every tenant to a Space, or leave these rows out of the view.",
            ),
            _Problem(
                "null_times",
                Level.FAULT,
                "contacts.created_at",
                "contacts.created_at is null in {} rows, so no file has them",
                "Give these contacts a time in the view: coalesce(column, another time).",
            ),
            _Problem(
                "infinite_times",
                Level.FAULT,
                "contacts.created_at",
                "contacts.created_at is infinite in {} rows, so no file has them",
                "In the view: CASE WHEN isfinite(column) THEN column ELSE another time END.",
            ),
            _Problem(
                "future_times",
                Level.WARNING,
                "contacts.created_at",
                "contacts.created_at is in the future in {} rows; perhaps local times are read as UTC",
                "In the view, name the zone of the stored times: column AT TIME ZONE 'Europe/Berlin' AS created_at.",
            ),
        ),
    ),
    _Check(
        "repeated_ids",
        ("contacts",),
        (
            _Problem(
                "repeated",
                Level.FAULT,
                "contacts.id",
                "{} ids are in several rows of contacts, so files repeat them, or exports fail as source_data",
                "SELECT id, count(*) FROM contacts GROUP BY id HAVING count(*) > 1; often a join in the view repeats rows.",
            ),
        ),
    ),
    _Check(
        "aliases_without_survivor",
        ("contacts",),
        (
            _Problem(
                "without",
                Level.FAULT,
                "contacts.merged_into",
                "{} merged contacts have a survivor that does not exist, so no file has them",
                "SELECT a.id FROM contacts a LEFT JOIN contacts s ON s.id = a.merged_into WHERE a.merged_into IS NOT NULL"
                " AND s.id IS NULL; set merged_into to the survivor or to null.",
            ),
            _Problem(
                "chained",
                Level.FAULT,
                "contacts.merged_into",
                "{} merged contacts point to a contact that is merged itself",
                "Resolve the chain: merged_into must be the id of the last survivor.",
            ),
            _Problem(
                "elsewhere",
                Level.FAULT,
                "contacts.merged_into",
                "{} merged contacts have a survivor in another Space",
                "Merge contacts only within a Space.",
            ),
        ),
    ),
    _Check("lost_addresses", ("contact_emails", "contacts"), _lost("contact_emails")),
    _Check("lost_tokens", ("comet_tokens", "contacts"), _lost("comet_tokens")),
    _Check(
        "repeated_tokens",
        ("comet_tokens",),
        (
            _Problem(
                "repeated",
                Level.FAULT,
                "comet_tokens.token",
                "{} tokens are in several rows of one contact, so a line can have fewer than five different tokens",
                "GROUP BY contact_id, token with max(last_seen_at) in the view.",
            ),
        ),
    ),
    _Check(
        "bad_custom_fields",
        ("contacts.custom_fields",),
        (
            _Problem(
                "bad",
                Level.FAULT,
                "contacts.custom_fields",
                "{} custom fields are neither an object nor null, so exports with custom fields fail as source_data",
                "In the view: CASE WHEN jsonb_typeof(column) = 'object' THEN column END.",
            ),
        ),
    ),
)


async def check_rows(reads: BoundedReads, readable: Iterable[str], report: Report) -> None:
    """Check the rows of relations that can be read. Raises SourceUnavailable if the server is silent."""
    present = set(readable)
    for relation in CONTRACT:
        if relation in present and not await evaluates(reads, relation, report):
            present.discard(relation)
    if any(column.name == "custom_fields" for each in report.relations for column in each.columns):
        present |= {f"{relation}.custom_fields" for relation in present & {"contacts"}}
    for check in _CHECKS:
        if present.issuperset(check.relations):
            await _run(reads, check, report)


async def _run(reads: BoundedReads, check: _Check, report: Report) -> None:
    """Run a check on the first rows, and on all rows if the first ones are good."""
    for limit in (SAMPLE, None):
        try:
            row = await reads.row(statement(check.name), limit)
        except OutOfTime:
            if limit is not None:
                text = f"{' and '.join(check.relations)} could not be checked in time ({check.name.replace('_', ' ')})."
                mend = "Give the command more time (--seconds), or make the relation faster: see the missing indexes."
                report.warn("unfinished", check.relations[0], text, mend)
            return
        except asyncpg.PostgresError as error:
            if unavailable(error):
                raise
            await locate(reads, check.relations[0], None, report)
            return
        scope = f"the first {SAMPLE:,} rows" if limit is not None and row["rows"] >= SAMPLE else "all rows"
        report.findings += [
            Finding(each.level, each.column, each.place, f"{each.text.format(row[each.column])} (of {scope}).", each.mend)
            for each in check.problems
            if row[each.column]
        ]
        if scope == "all rows" or any(row[each.column] for each in check.problems):
            return

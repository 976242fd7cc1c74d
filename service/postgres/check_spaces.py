"""Checks of the Space that is exported: whether it exists, and whether it has contacts."""

from datetime import timedelta

import asyncpg

from service.errors import DatabaseUnavailable
from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.findings import Report
from service.postgres.single_connection import single_connection
from sql import statement

_MAIN_TIMEOUT = timedelta(seconds=5)


async def check_contacts_of_space(reads: BoundedReads, report: Report) -> bool:
    """Report empty contacts and a Space without contacts. Returns whether an export can be planned and measured."""
    try:
        found = await reads.row(statement("has_contacts"), report.space_id)
    except (OutOfTime, asyncpg.DataError, asyncpg.RaiseError):  # of the contacts: the check of their rows reports it
        return True
    if not found["any"]:
        text = f"contacts has no rows in {report.source}, so no export was planned or measured."
        report.warn("no_contacts", "contacts", text, f"Correct the view, or add contacts. {elsewhere(report)}".rstrip())
    elif report.space_id is not None and not found["of_space"]:
        text = f"No row of contacts has the space_id {report.space_id}, so its exports are empty."
        mend = (
            "Map a tenant to this Space in the view. SELECT space_id, count(*) FROM contacts GROUP BY 1; lists the others."
        )
        report.warn("space_without_contacts", "contacts.space_id", text, mend)
    return bool(found["any"])


def elsewhere(report: Report) -> str:
    """Advice to name the database of the contacts, if no setting does."""
    named = report.setting == "CONTACTS_DATABASE_URL"
    return "" if named else "If your contacts are in another database, set CONTACTS_DATABASE_URL."


async def check_space_exists(main: str, report: Report) -> None:
    """Report a Space that is not in the main database, or that the main database has no Spaces yet."""
    if report.space_id is None:
        return
    try:
        async with single_connection(main, command_timeout=_MAIN_TIMEOUT) as connection:
            exists = await connection.fetchval(statement("space_exists"), report.space_id)
    except asyncpg.UndefinedTableError:
        mend = "contact-exports migrate; then contact-exports spaces create NAME --timezone Europe/Berlin"
        report.warn("no_spaces", "main database", "The main database has no Spaces, because it is not migrated.", mend)
    except (DatabaseUnavailable, asyncpg.PostgresError):
        text = f"Whether the Space {report.space_id} exists is unknown, because the main database cannot be read."
        report.warn("space_unknown", "main database", text, "Correct DATABASE_URL (or DATABASE_DIRECT_URL).")
    else:
        if not exists:
            text = f"There is no Space {report.space_id}, so nobody can export the contacts with this space_id."
            mend = (
                "contact-exports spaces list shows the ids; contact-exports spaces create makes a new one and prints its id."
            )
            report.warn("no_such_space", "contacts.space_id", text, mend)

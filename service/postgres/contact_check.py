"""Checks whether the three contact relations of an adopter fit, and how fast an export of them is."""

from datetime import timedelta

from service.database_urls import place_of
from service.errors import PoolerInFront
from service.failures import SourceData, SourceUnavailable
from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.check_relations import check_columns, check_probe, check_relation, check_session
from service.postgres.check_rows import check_rows
from service.postgres.check_spaces import check_contacts_of_space, check_space_exists
from service.postgres.check_speed import biggest_space, check_horizon, check_plan, check_speed
from service.postgres.check_times import check_times
from service.postgres.contact_source import ContactSource
from service.postgres.driver_errors import login_refused, source_errors
from service.postgres.findings import Report
from service.postgres.relations import CONTRACT
from service.postgres.session import connect_to_contacts

_NOT_IN_TIME = "No contacts were found in time, so no export was planned or measured."


async def check_contacts(
    dsn: str,
    *,
    space_id: int | None,
    each: timedelta,
    total: timedelta,
    setting: str = "CONTACTS_DATABASE_URL",
    main: str | None = None,
) -> Report:
    """Everything that is wrong or slow about the contacts in a database; writes nothing.

    A read takes at most `each` on the server; all checks of rows take at most `total`. `space_id` chooses the Space whose
    export is planned and measured; by default it is the one with the most contacts. `setting` is the name of the setting
    with the address `dsn`. `main` is the address of the main database: with it the check looks whether the Space exists.
    """
    report = Report(space_id=space_id, source=place_of(dsn), setting=setting)
    try:
        connection = await connect_to_contacts(dsn, each)
    except SourceUnavailable as error:
        _report_unreachable(error, report)
        return report
    reads = BoundedReads(connection, each=each, total=total)
    try:
        with source_errors():
            await _check(reads, ContactSource(dsn, each), report)
    except (SourceUnavailable, SourceData) as error:
        report.fault("ended_early", "database", f"The check ended early: {error.detail}.", "Run the check again.")
    finally:
        connection.terminate()
    if main is not None:
        await check_space_exists(main, report)
    return report


async def _check(reads: BoundedReads, source: ContactSource, report: Report) -> None:
    connection = reads.connection
    role = report.role = await check_session(connection, report)
    exists = [relation for relation in CONTRACT if await check_relation(connection, relation, role, report)]
    different = await check_columns(connection, report)
    readable = [
        relation
        for relation in exists
        if relation not in different and await check_probe(connection, relation, role, report)
    ]
    for relation in readable:
        await check_times(reads, relation, report)
    await check_rows(reads, readable, report)
    if "contacts" in readable:
        await check_horizon(source, report)
    if len(readable) == len(CONTRACT):
        await _check_export(reads, source, report)


async def _check_export(reads: BoundedReads, source: ContactSource, report: Report) -> None:
    """Plan and measure the export of a Space."""
    if not await check_contacts_of_space(reads, report):
        return
    if report.space_id is None:
        report.space_id = await biggest_space(reads)
    if report.space_id is None:
        report.warn("no_contacts", "contacts", _NOT_IN_TIME, "Name a Space (--space), and run the check again.")
        return
    try:
        await check_plan(reads, report.space_id, report)
    except OutOfTime:
        text = "The plan of an export could not be made in time."
        report.warn("unfinished", "contacts", text, "Give the command more time (--seconds).")
    await check_speed(source, report.space_id, report)


def _report_unreachable(error: SourceUnavailable, report: Report) -> None:
    if isinstance(error.__cause__, PoolerInFront):
        text = "A connection pooler is between this command and the server; it refuses settings of the session."
        mend = "Give the address of the server itself in CONTACTS_DATABASE_URL (or DATABASE_DIRECT_URL)."
        report.fault("pooler", "database", text, mend)
    elif login_refused(error):
        text = f"{report.source} refuses the login: {error.detail}."
        report.fault("login_refused", "database", text, f"Correct user, password and database in {report.setting}.")
    else:
        text = f"{report.source} cannot be reached: {error.detail}."
        mend = f"Correct host and port in {report.setting}; check the network and the server."
        report.fault("unreachable", "database", text, mend)

"""The command `contact-exports contacts check`."""

import json
import sys
import textwrap
from dataclasses import asdict
from datetime import timedelta

import click

from service.commands.arguments import ID
from service.commands.environment import command, settings
from service.commands.output import print_line, visible
from service.postgres.check_speed import MEASURED_ROWS
from service.postgres.contact_check import check_contacts
from service.postgres.findings import Finding, Level, Relation, Report
from service.setting_source import load
from service.settings import Settings

_READ_SECONDS = 5.0
_WIDTH = 110


@click.group()
def contacts() -> None:
    """Check contacts in tables or views of your own."""


@contacts.command("check")
@click.option(
    "--space", "space_id", type=ID, metavar="ID", help="Plan and measure the export of this Space. Default: the biggest."
)
@click.option(
    "--seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="Time for all checks of rows together.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@command
async def contacts_check(space_id: int | None, seconds: float, *, as_json: bool) -> None:
    """Check whether contacts, contact_emails and comet_tokens fit, and how fast an export of them is.

    Only reads. Exits with 0 if nothing was found, 1 with warnings, 2 with faults.
    """
    with settings() as given:
        each, total = timedelta(seconds=min(_READ_SECONDS, seconds)), timedelta(seconds=seconds)
        setting = _setting(given)
        main = given.direct_dsn if load().database_url is not None else None
        report = await check_contacts(
            given.contacts_dsn, space_id=space_id, each=each, total=total, setting=setting, main=main
        )
    for line in (_as_json(report) if as_json else _as_text(report)).splitlines():
        print_line(visible(line))
    sys.exit(report.exit_code)


def _as_json(report: Report) -> str:
    """The report as one JSON object."""
    content = {
        "faults": report.count(Level.FAULT),
        "warnings": report.count(Level.WARNING),
        "database": report.source,
        "setting": report.setting,
        "role": report.role,
        "findings": [asdict(finding) | {"level": finding.level.name.lower()} for finding in report.findings],
        "relations": [asdict(relation) for relation in report.relations],
        "space_id": report.space_id,
        "plan": report.plan,
        "speeds": [asdict(speed) | {"rows_per_second": speed.rows_per_second} for speed in report.speeds],
        "complete_until": report.complete_until.isoformat() if report.complete_until else None,
    }
    return json.dumps(content, ensure_ascii=False)


def _as_text(report: Report) -> str:
    """The report for people: relations, findings with the worst first, measurements, and a last line that sums up."""
    role = f" as the role {report.role}" if report.role else ""
    lines = [f"Read {report.source}{role} ({report.setting})."]
    lines += [line for relation in report.relations for line in _relation_lines(relation)]
    for finding in sorted(report.findings, key=lambda each: -each.level):
        lines += _finding_lines(finding)
    lines.append("")
    if report.space_id is not None:
        lines.append(f"Export of the Space {report.space_id}:")
        if report.plan:
            lines.append(f"  plan: {report.plan}")
        lines += [
            f"  {speed.extras}: {'the first ' if speed.rows >= MEASURED_ROWS else ''}{speed.rows:,} contacts"
            f" in {speed.seconds:.2f} s, {speed.rows_per_second:,} per second;"
            f" the first after {speed.first_row_seconds:.2f} s"
            for speed in report.speeds
        ]
    known = f"{report.complete_until:%Y-%m-%d %H:%M:%S %Z}" if report.complete_until else "null"
    counts = ", ".join((_counted(report.count(Level.FAULT), "fault"), _counted(report.count(Level.WARNING), "warning")))
    lines += [f"complete_until would be {known}", counts]
    return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _setting(given: Settings) -> str:
    """The setting that names the database of the contacts."""
    if given.contacts_database_url is not None:
        return "CONTACTS_DATABASE_URL"
    if given.database_direct_url is not None:
        return "DATABASE_DIRECT_URL"
    return "DATABASE_URL" if load().database_url is not None else "STATE_DIR, because DATABASE_URL is not set"


def _relation_lines(relation: Relation) -> list[str]:
    columns = (
        f"{column.name} {column.type}{' not null' if column.nullable is False else ''}" for column in relation.columns
    )
    return _wrapped(f"{relation.found_as} is a {relation.kind}: {', '.join(columns)}", "", "  ")


def _finding_lines(finding: Finding) -> list[str]:
    lines = _wrapped(f"{finding.level.name} {finding.text}", "", "  ")
    # A statement to copy stays on one line.
    return ["", *lines, f"  Mend: {finding.mend}"]


def _wrapped(text: str, first: str, further: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=further, break_long_words=False)

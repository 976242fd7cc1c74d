"""The options of `contact-exports export`."""

import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypedDict, Unpack

import click

from service.commands.arguments import ID
from service.commands.export.order import Duration, Follow, Form, LocalTime, OnInterrupt, Order, ServiceUrl
from service.model import ExportRequest, Extra

_KEY = "CONTACT_EXPORTS_API_KEY"
_KEY_FILE = "CONTACT_EXPORTS_API_KEY_FILE"
_PATH = click.Path(path_type=Path)


class Options(TypedDict):
    """The values of the options."""

    url: str
    key_file: Path | None
    start: datetime | None
    end: datetime | None
    tokens: bool
    emails: bool
    custom_fields: bool
    export_id: int | None
    since_last: Path | None
    overlap: timedelta | None
    output: str
    form: str | None
    force: bool
    on_interrupt: OnInterrupt | None
    as_json: bool
    quiet: bool


@click.command()
@click.option(
    "--url", required=True, envvar="CONTACT_EXPORTS_URL", show_envvar=True, type=ServiceUrl(), help="Service address."
)
@click.option(
    "--key-file",
    type=_PATH,
    help=f"File with the API key. Defaults to the key in ${_KEY}, or in the file ${_KEY_FILE}, or a prompt.",
)
@click.option("--from", "start", type=LocalTime(end=False), help="First day, or local time of the Space.")
@click.option("--to", "end", type=LocalTime(end=True), help="Last day, or local time of the Space. Inclusive.")
@click.option("--tokens", is_flag=True, help="Include the last five tokens of each contact.")
@click.option("--emails", is_flag=True, help="Include all addresses of each contact.")
@click.option("--custom-fields", is_flag=True, help="Include anything else that is stored about a contact.")
@click.option("--id", "export_id", type=ID, metavar="ID", help="Download this export instead of a new one.")
@click.option(
    "--since-last", type=_PATH, metavar="FILE", help="Export what is new since the last run, which FILE remembers."
)
@click.option("--overlap", type=Duration(), help="With --since-last: begin this much earlier (90s, 15m, 2h, 1d).")
@click.option("-o", "--output", required=True, metavar="FILE", help="Where to: a file, or - for standard output.")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Form]),
    help="Defaults to the suffix of FILE; ndjson for -.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option(
    "--on-interrupt", type=click.Choice(["cancel", "leave"]), help="What Ctrl-C does to the export. Asks by default."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
def export(**options: Unpack[Options]) -> None:
    """Export contacts of a Space to a file: create the export, wait, download, verify.

    Works with any deployment, over HTTP with an API key. The exit codes are in docs/client.md.
    """
    order = _order(options)
    from service.commands.export.run import execute  # noqa: PLC0415 - loads the client, which --help does not need

    sys.exit(execute(order))


def _order(options: Options) -> Order:
    target = None if options["output"] == "-" else Path(options["output"])
    chosen = {
        Extra.COMET_TOKENS: options["tokens"],
        Extra.EMAILS: options["emails"],
        Extra.CUSTOM_FIELDS: options["custom_fields"],
    }
    extras = Extra.among([extra for extra, asked in chosen.items() if asked])
    what = _what(options, extras)
    return Order(
        url=options["url"],
        extras=extras,
        what=what,
        target=target,
        form=_form(options["form"], target),
        force=options["force"],
        on_interrupt=options["on_interrupt"],
        as_json=options["as_json"],
        quiet=options["quiet"],
        key=_key(options["key_file"]),
    )


def _what(options: Options, extras: tuple[Extra, ...]) -> ExportRequest | Follow | int:
    start, end, state = options["start"], options["end"], options["since_last"]
    if options["overlap"] is not None and state is None:
        raise click.UsageError("--overlap needs --since-last.")
    if options["export_id"] is not None:
        if start or end or state or extras:
            raise click.UsageError("--id names an existing export, so it cannot be combined with options of a new one.")
        return options["export_id"]
    if state is not None:
        if end is not None:
            raise click.UsageError("--since-last always exports up to now, so it cannot be combined with --to.")
        return Follow(state, start, options["overlap"])
    if start is None or end is None:
        raise click.UsageError("Give --from and --to, or --since-last, or --id.")
    return ExportRequest(start, end, extras)


def _form(chosen: str | None, target: Path | None) -> Form:
    if target is None:
        form = Form(chosen or Form.LINES)
        if sys.stdout is None:
            raise click.UsageError("Standard output is closed.")
        if form is Form.GZIP and sys.stdout.isatty():
            raise click.UsageError("Compressed data is not written to a terminal.")
        return form
    if chosen is not None:
        return Form(chosen)
    if (meant := Form.of(target)) is None:
        raise click.UsageError(
            f"The name {target.name} has none of the suffixes .ndjson.gz, .ndjson and .csv; give --format."
        )
    return meant


def _key(file: Path | None) -> str:
    """The API key, which is never an argument: other users of the machine can read arguments."""
    if file is None and not os.environ.get(_KEY) and (name := os.environ.get(_KEY_FILE)):
        file = Path(name)
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise click.UsageError(f"The key file {file} cannot be read ({reason}).") from None
    elif (key := os.environ.get(_KEY, "").strip()) == "":
        if not sys.stdin.isatty():
            raise click.UsageError(f"There is no API key: set {_KEY}, or give --key-file.")
        key = click.prompt("API key", hide_input=True, err=True).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise click.UsageError("The API key is empty or has spaces or other characters that no key has.")
    return key

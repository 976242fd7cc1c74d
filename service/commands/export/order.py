"""What a person asked the command for, as values. Nothing here imports the client, so that `--help` is quick."""

import re
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import click

from service.model import ExportRequest, Extras

_DURATION = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M")

OnInterrupt = Literal["cancel", "leave"]


class Form(StrEnum):
    """What the target contains. The values are also the suffixes of names."""

    GZIP = "ndjson.gz"
    LINES = "ndjson"
    CSV = "csv"

    @classmethod
    def of(cls, path: Path) -> "Form | None":
        """The form that the name of a file means."""
        return next((form for form in cls if path.name.lower().endswith(f".{form}")), None)


@dataclass(frozen=True, slots=True)
class Follow:
    """`--since-last`: `state` remembers how far the Space was exported; `first` is the start of the first export.

    Each export begins `overlap` before the end of the last one; None if no overlap was given.
    """

    state: Path
    first: datetime | None
    overlap: timedelta | None


@dataclass(frozen=True, slots=True)
class Order:
    """One run of the command: what to export, and where to. `target` is None for standard output."""

    url: str
    key: str = field(repr=False)
    extras: Extras
    what: ExportRequest | Follow | int
    """A new export of a window, the contacts since the last export, or the id of an existing export."""
    target: Path | None
    form: Form
    force: bool
    on_interrupt: OnInterrupt | None
    as_json: bool
    quiet: bool


class LocalTime(click.ParamType[datetime]):
    """A day or a time of the Space. A day means its first second, or its last one if `end`."""

    name = "date"

    def __init__(self, *, end: bool) -> None:
        self._end = end

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the naive local time. Raises click.BadParameter."""
        text = str(value)
        try:
            day = datetime.strptime(text, "%Y-%m-%d")  # noqa: DTZ007 - a local time of the Space
            return datetime.combine(day, time(23, 59, 59) if self._end else time())
        except ValueError:
            pass
        for known in _FORMATS:
            try:
                return datetime.strptime(text, known)  # noqa: DTZ007 - a local time of the Space
            except ValueError:
                continue
        form = "a day (2024-01-31) or a time (2024-01-31T12:00:00) in the Space's timezone, without an offset"
        return self.fail(f"{text!r} is not {form}", param, ctx)


class Duration(click.ParamType[timedelta]):
    """A whole number of seconds, minutes, hours or days: 90s, 15m, 2h, 1d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration. Raises click.BadParameter."""
        if (match := _DURATION.fullmatch(str(value))) is None:
            self.fail(f"{value!r} is not a duration such as 90s, 15m, 2h or 1d", param, ctx)
        duration = timedelta(**{_UNITS[match[2]]: int(match[1])})
        if duration > _LONGEST:
            self.fail(f"{value!r} is longer than {_LONGEST.days}d", param, ctx)
        return duration


class ServiceUrl(click.ParamType[str]):
    """The address of the service, without its API path."""

    name = "url"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the URL without the path of the API. Raises click.BadParameter; the value may contain a password."""
        if not _is_service_url(str(value)):
            self.fail("must be http://host or https://host, with a port or a path if needed, and nothing else", param, ctx)
        return str(value).rstrip("/").removesuffix("/public-api/v1")


def _is_service_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        has_host = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return has_host and not parts.query and not parts.fragment and "@" not in parts.netloc

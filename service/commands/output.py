"""What commands print: names from the database cannot break a line, move the cursor or end the program."""

import atexit
import errno
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO

import click

from service.errors import ServiceError


def print_line(text: object = "") -> None:
    """Print a result. Raises ServiceError if it cannot be written, as on a full disk."""
    try:
        click.echo(text)
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has seen enough, as `head`
            raise
        _forget_unwritten(sys.stdout)
        raise ServiceError(f"The result cannot be written: {error.strerror}.") from error


def print_note(text: str) -> None:
    """Print information on standard error. What cannot be written is lost, like a line of the log, and stops nothing."""
    with suppress(OSError):
        click.echo(text, err=True)


def _forget_notes() -> None:
    """Called at exit. Otherwise the interpreter would fail on what it could not write, and change the exit code to 120."""
    try:
        sys.stderr.flush()
    except OSError:
        _forget_unwritten(sys.stderr)


def _forget_unwritten(stream: TextIO) -> None:
    """Let the interpreter write at its end what is still buffered to nowhere, instead of failing once more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def print_fields(*fields: object) -> None:
    """Print one line of fields, separated by tabs. Raises ServiceError as `print_line`."""
    print_line("\t".join(visible(str(field)) for field in fields))


def print_row(row: Mapping[str, object]) -> None:
    """Print the fields of a row that have a value, one a line. Raises ServiceError as `print_line`."""
    for name, value in row.items():
        if value is not None:
            print_line(f"{name:22} {visible(str(value))}")


def visible(text: str) -> str:
    """The text with every control character, such as a tab, a line break or an escape, written as in Python."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def prepare_streams() -> None:
    """Make standard output and standard error accept any text. Call it once, at the start of the program.

    Standard streams that the caller closed are opened on /dev/null, so that no file or socket gets their descriptors.
    Characters that the terminal's encoding does not have are written as escapes. Lost notes do not change the exit code.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - takes no keyword
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    atexit.register(_forget_notes)

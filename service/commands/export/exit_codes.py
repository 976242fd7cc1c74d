"""The exit codes of the command; docs/client.md lists them."""

from enum import IntEnum

from service.client.errors import (
    ClientError,
    DownloadBroken,
    NoFile,
    NotTheService,
    Refused,
    TargetError,
    Unauthorised,
    Unreachable,
    WrongFile,
)
from service.commands.export.since_last import StateError


class ExitCode(IntEnum):
    """How a run ended. An interrupted run ends with 128 plus the number of its signal."""

    DONE = 0
    USAGE = 2
    UNAUTHORISED = 3
    REFUSED = 4
    UNREACHABLE = 5
    NO_FILE = 6
    BROKEN = 7
    WRONG_FILE = 8
    WRONG_OUTPUT = 9
    TARGET = 10
    STATE = 11
    CLOSED_PIPE = 141


class WrongOutput(ClientError):
    """Standard output has content that turned out to be wrong."""


class ClosedPipe(ClientError):
    """The reader of standard output has ended."""


_CODES: dict[type[ClientError], ExitCode] = {
    Unauthorised: ExitCode.UNAUTHORISED,
    Refused: ExitCode.REFUSED,
    Unreachable: ExitCode.UNREACHABLE,
    NotTheService: ExitCode.UNREACHABLE,
    NoFile: ExitCode.NO_FILE,
    DownloadBroken: ExitCode.BROKEN,
    WrongFile: ExitCode.WRONG_FILE,
    WrongOutput: ExitCode.WRONG_OUTPUT,
    TargetError: ExitCode.TARGET,
    StateError: ExitCode.STATE,
    ClosedPipe: ExitCode.CLOSED_PIPE,
}


def of(error: ClientError) -> ExitCode:
    """The exit code for an error."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)

"""Translates errors of the Postgres driver into errors of this service."""

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg

from service.errors import DatabaseRefused, DatabaseUnavailable, RightMissing, ServiceError
from service.failures import SourceData, SourceUnavailable, SourceUnreadable

_UNAVAILABLE_CLASSES = ("08", "25", "40", "53", "55", "57", "58")
"""SQLSTATE classes that blame the server, not the statement: connection, read-only after a failover, rollback by deadlock,
resources, lock timeout, operator intervention, system error."""
_DATA_CLASSES = ("21", "22", "54")
"""SQLSTATE classes that blame stored data: a subquery with several rows, data exception, program limit exceeded."""
_DEFINITION_CLASSES = ("3F", "42")
"""SQLSTATE classes that blame a definition: no such schema, relation, column or right. Their messages name only these."""
_ROUTINE_CLASSES = ("2F", "P0")
"""SQLSTATE classes of errors that a function raises. Their messages are written by people and may quote values of rows."""
_ROUTINE = re.compile(r'PL/pgSQL function ([\w."$]+)\([^)]*\) line (\d+)')
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
    ssl.SSLCertVerificationError,
    DatabaseRefused,
)
"""Errors at login that only a person can fix."""
_NO_TLS = "rejected SSL upgrade"
"""The driver's text if the server has no TLS and the URL requires it."""


@contextmanager
def database_errors() -> Iterator[None]:
    """Raises DatabaseUnavailable for errors of an unavailable database, DatabaseRefused for a login that cannot succeed.

    Raises RightMissing if the role lacks a right. Any other error passes unchanged.
    """
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise RightMissing(detail=describe(error)) from error
    except Exception as error:
        if unavailable(error):
            failure = DatabaseRefused if _refused(error) else DatabaseUnavailable
            raise failure(detail=describe(error)) from error
        raise


@contextmanager
def source_errors(place: Callable[[], str] = lambda: "contacts database") -> Iterator[None]:
    """Raises SourceData, SourceUnreadable or SourceUnavailable for any error while reading contacts.

    `place` says for operators where the error happened. A ServiceError passes unchanged.
    """
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        raise _source_failure(error)(detail=f"{place()}: {describe(error)}") from error


def _source_failure(error: Exception) -> type[SourceData | SourceUnavailable]:
    sqlstate_class = _sqlstate_class(error)
    if isinstance(error, UnicodeError) or sqlstate_class in _DATA_CLASSES:
        return SourceData
    return SourceUnreadable if sqlstate_class in _DEFINITION_CLASSES + _ROUTINE_CLASSES else SourceUnavailable


def login_refused(error: SourceUnavailable) -> bool:
    """True if a login that cannot succeed caused the error, as with a wrong password or a missing database."""
    return error.__cause__ is not None and _refused(error.__cause__)


def _refused(error: BaseException) -> bool:
    return isinstance(error, _REFUSED) or (isinstance(error, ConnectionError) and _NO_TLS in str(error))


def unavailable(error: BaseException) -> bool:
    """True if the error says that the database cannot serve us now; False if a statement is wrong."""
    if isinstance(error, asyncpg.PostgresError):
        return _sqlstate_class(error) in _UNAVAILABLE_CLASSES or isinstance(
            error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError
        )
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | TimeoutError)


def connection_was_lost(error: BaseException | None) -> bool:
    """True if a connection broke, as in a restart of the server; False after a timeout."""
    # The driver raises InternalClientError if it reads the server's farewell in place of a result.
    lost = asyncpg.InterfaceError | asyncpg.InternalClientError | OSError
    ended = asyncpg.PostgresConnectionError | asyncpg.AdminShutdownError
    return isinstance(error, lost | ended) and not isinstance(error, TimeoutError)


def describe(error: BaseException) -> str:
    """The error for operators: class, SQLSTATE, and the server's message unless that may contain data of rows.

    DETAIL, HINT and CONTEXT of the server are left out. An error that a function raised is described by the function's
    name and line.
    """
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} {error.sqlstate}: {_server_sentence(error)}".rstrip(": ")
    hosts = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    if isinstance(error, TimeoutError):
        return f"no response in time{hosts}"
    shown = isinstance(error, OSError | asyncpg.ClientConfigurationError)
    return f"{type(error).__name__}: {error}{hosts}" if shown else type(error).__name__


def _server_sentence(error: asyncpg.PostgresError) -> str:
    if _sqlstate_class(error) in _ROUTINE_CLASSES:
        found = _ROUTINE.search(error.context or "")
        return f"raised by the function {found[1]} in line {found[2]}" if found else ""
    return error.message or "" if unavailable(error) or _sqlstate_class(error) in _DEFINITION_CLASSES else ""


def _sqlstate_class(error: BaseException) -> str:
    return (error.sqlstate or "")[:2] if isinstance(error, asyncpg.PostgresError) else ""

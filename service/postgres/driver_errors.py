"""Translates errors of the Postgres driver into errors of this service."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from service.errors import DatabaseUnavailable, ServiceError, SourceData, SourceUnavailable

_UNAVAILABLE_CLASSES = ("08", "25", "40", "53", "55", "57", "58")
"""SQLSTATE classes that blame the server, not the statement: connection, read-only after a failover, rollback by deadlock,
resources, lock timeout, operator intervention, system error."""
_DATA_CLASSES = ("22", "54")
"""SQLSTATE classes that blame stored data: data exception, program limit exceeded."""


@contextmanager
def database_errors() -> Iterator[None]:
    """Raises DatabaseUnavailable for errors of an unavailable database. Any other error passes unchanged."""
    try:
        yield
    except Exception as error:
        if unavailable(error):
            raise DatabaseUnavailable(detail=describe(error)) from error
        raise


@contextmanager
def source_errors() -> Iterator[None]:
    """Raises SourceData or SourceUnavailable for any error while reading contacts. A ServiceError passes unchanged."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        blames_data = isinstance(error, UnicodeError) or _sqlstate_class(error) in _DATA_CLASSES
        failure = SourceData if blames_data else SourceUnavailable
        raise failure(detail=f"contacts database: {describe(error)}") from error


def unavailable(error: BaseException) -> bool:
    """True if the error says that the database cannot serve us now; False if a statement is wrong."""
    if isinstance(error, asyncpg.PostgresError):
        return _sqlstate_class(error) in _UNAVAILABLE_CLASSES or isinstance(
            error, asyncpg.InvalidAuthorizationSpecificationError | asyncpg.InvalidCatalogNameError
        )
    return isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError | OSError | TimeoutError)


def describe(error: BaseException) -> str:
    """The error for operators: class, SQLSTATE, and the server's message unless that may contain data of rows."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__} {error.sqlstate}: {error.message if unavailable(error) else ''}".rstrip(": ")
    if isinstance(error, TimeoutError):
        return "no response in time"
    return f"{type(error).__name__}: {error}" if isinstance(error, OSError) else type(error).__name__


def _sqlstate_class(error: BaseException) -> str:
    return (error.sqlstate or "")[:2] if isinstance(error, asyncpg.PostgresError) else ""

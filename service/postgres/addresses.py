"""Addresses of databases that may change while the process runs, as when a password is rotated."""

from collections.abc import Callable

Dsn = str | Callable[[], str]
"""A URL, or a function that returns the current one. It is called for each new connection."""


def current(dsn: Dsn) -> str:
    """The URL for a connection that is opened now."""
    return dsn if isinstance(dsn, str) else dsn()

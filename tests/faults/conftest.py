"""Fixtures of the tests that break things: the same as of those that run the whole program."""

from tests.e2e.conftest import connection, space, store

__all__ = ["connection", "space", "store"]

"""A Postgres server for the demo, for the tests, and for a service started without settings."""


class EmbeddedError(Exception):
    """An embedded program cannot be found or started. Line 1 is our message, the rest is the program\'s output."""

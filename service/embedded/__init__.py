"""A Postgres server and sample data for the demo, for the tests, and for a service started without settings."""


class EmbeddedError(Exception):
    """The embedded Postgres was not found or did not start. The first line is the error; the rest is the server's output."""

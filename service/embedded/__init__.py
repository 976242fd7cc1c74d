"""A Postgres for the demonstration, the tests, and a service that is started without settings."""


class EmbeddedError(Exception):
    """An embedded part cannot be found or started; the first line is ours, the rest what the part said."""

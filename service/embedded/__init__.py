"""A Postgres server for the demo, for the tests, and for a service started without settings."""


class EmbeddedError(Exception):
    """An embedded part cannot be found or started; the first line is ours, the rest what the part said."""

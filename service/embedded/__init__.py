"""What a demonstration and the tests need and a real installation brings along: a Postgres, sample data."""


class EmbeddedError(Exception):
    """An embedded part cannot be found or started; the first line is ours, the rest what the part said."""

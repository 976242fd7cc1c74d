"""The secrets that all replicas share."""

from service.postgres.pool import Database


class SharedSecrets:
    """Random secrets that the first migration created. Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> bytes:
        """The secret `links` or `cursors`: 48 bytes."""
        row = await self._database.read_row("shared_secret", name)
        assert row is not None, name
        return bytes(row["value"])

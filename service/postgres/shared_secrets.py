"""The secrets that all replicas share."""

from service.postgres.pool import Database


class SharedSecrets:
    """Random secrets that the first migration created; each is read once and kept."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, bytes] = {}

    async def get(self, name: str) -> bytes:
        """The secret `links` or `cursors`: 48 bytes. Raises DatabaseUnavailable at the first use."""
        if name not in self._known:
            row = await self._database.read_row("shared_secret", name)
            assert row is not None, name
            self._known[name] = bytes(row["value"])
        return self._known[name]

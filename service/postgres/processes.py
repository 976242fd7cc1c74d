"""The processes of the service, as the views for operators see them."""

from dataclasses import dataclass

from service.postgres.pool import Database


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its name for operators, and the settings that decide how many exports run."""

    worker: str
    version: str
    export_slots: int
    space_slots: int


class Processes:
    """The table of processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def announce(self, process: Process) -> None:
        """Record that the process runs now. Raises DatabaseUnavailable."""
        await self._database.fetch(
            "announce_process", process.worker, process.version, process.export_slots, process.space_slots
        )

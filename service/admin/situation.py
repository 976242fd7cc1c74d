"""What the overview shows, read from the database at most every other second for all who look at it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from service.admin.plots import Bar, Plot, plot
from service.admin.rendering import count, duration
from service.metrics.last_known import Known, LastKnown
from service.postgres.figures import QueueFigures
from service.postgres.overview import Overview, Row

_LIVE_EVERY = timedelta(seconds=1.5)
_HISTORY_EVERY = timedelta(seconds=30)
_STEP = timedelta(minutes=10)
_SPAN = timedelta(hours=6)
_MOST_RUNNING = 100
_MOST_WAITING = 50
_MOST_FAILED = 20


@dataclass(frozen=True, slots=True)
class Live:
    """Rows of the public views: what runs, the queue by Space, and what failed."""

    running: list[Row]
    waiting: list[Row]
    failed: list[Row]


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything that the overview shows. Values are None before the first reading."""

    figures: Known[QueueFigures]
    live: Known[Live]
    plots: list[Plot]

    @property
    def error(self) -> str | None:
        """Why the values are old, or None if they are fresh."""
        return self.live.error or self.figures.error

    @property
    def table(self) -> Iterable[tuple[Bar, ...]]:
        """The bars of all plots, by interval."""
        return zip(*(each.bars for each in self.plots), strict=True)


class Situation:
    """The last known state of the installation. Every method returns within a few seconds, also without a database."""

    def __init__(self, overview: Overview, figures: LastKnown[QueueFigures]) -> None:
        self._overview = overview
        self._figures = figures
        self._live = LastKnown(self._read_live, every=_LIVE_EVERY)
        self._history = LastKnown(self._read_history, every=_HISTORY_EVERY)

    async def now(self) -> Seen:
        """What is known now."""
        live = await self._live.get()
        figures = self._figures.known if live.error else await self._figures.get()
        history = self._history.known if live.error else await self._history.get()
        oldest = figures.value.oldest_age if figures.value else 0.0
        return Seen(figures, live, _plots(history.value, oldest) if history.value else [])

    async def stop(self) -> None:
        """End readings that are in progress."""
        await self._live.stop()
        await self._history.stop()

    async def _read_live(self) -> Live:
        return Live(
            await self._overview.running(limit=_MOST_RUNNING),
            await self._overview.waiting(limit=_MOST_WAITING),
            await self._overview.failed(limit=_MOST_FAILED),
        )

    async def _read_history(self) -> list[Row]:
        return await self._overview.history(step=_STEP, span=_SPAN)


def _plots(history: list[Row], oldest: float) -> list[Plot]:
    """The plots. In the last interval, the wait of the export that still waits counts as well."""
    contacts = [(row["start"], float(row["contacts"]), f"{count(row['contacts'])} contacts") for row in history]
    waits = [(row["start"], float(row["waited"])) for row in history]
    waits[-1] = waits[-1][0], max(waits[-1][1], oldest)
    return [
        plot("contacts", "Contacts exported in 10 minutes", contacts, scale=1),
        plot("waits", "Longest wait for a slot", [(start, wait, duration(wait)) for start, wait in waits], scale=60),
    ]

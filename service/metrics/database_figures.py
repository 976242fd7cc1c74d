"""Figures of the installation as metrics: the last values, with their age, also while the database is down."""

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.metrics.instruments import PREFIX
from service.metrics.last_known import LastKnown
from service.postgres.figures import QueueFigures


class DatabaseFigures(Collector):
    """Collects what `last` knows; it reads nothing itself, because it may run in a thread."""

    def __init__(self, last: LastKnown[QueueFigures]) -> None:
        self._last = last

    def collect(self) -> Iterable[Metric]:
        """The metrics; those of the figures only after the first reading."""
        known = self._last.known
        if known.value is None:
            up = 0
        else:
            up = int(known.error is None)
            yield from _figures(known.value)
            yield _gauge("figures_age_seconds", "Age of the figures that are read from the database.", known.age)
        yield _gauge("database_up", "1 if the last reading of the figures succeeded.", up)


def _figures(figures: QueueFigures) -> Iterable[Metric]:
    states = {
        "queued": figures.queued,
        "processing": figures.running,
        "completed": figures.completed,
        "failed": figures.failed,
        "cancelled": figures.cancelled,
        "expired": figures.expired,
    }
    yield _labelled("exports", "Exports: all queued and running ones, and those that ended in 24 hours.", "status", states)
    queue = {"ready": figures.ready, "waits_for_retry": figures.waits_for_retry, "paused": figures.paused}
    yield _labelled("queue_exports", "Queued exports of all processes.", "state", queue)
    phases = {"starting": figures.starting, "reading": figures.reading, "completing": figures.completing}
    yield _labelled("running_exports", "Running exports of all processes.", "phase", phases)
    yield _gauge(
        "queue_oldest_age_seconds", "How long the first export of the queue has waited for a slot.", figures.oldest_age
    )
    yield _gauge("overdue_leases", "Running exports whose lease expired more than a minute ago.", figures.overdue_leases)
    yield _gauge("overdue_files", "Files that should have been deleted more than an hour ago.", figures.overdue_files)


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", meaning, value=value)


def _labelled(name: str, meaning: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family

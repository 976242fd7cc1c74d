"""The metrics of a process: everything that is measured, and the text that Prometheus reads."""

import asyncio
import platform
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service import events
from service.metrics.database_figures import DatabaseFigures
from service.metrics.instruments import Instruments
from service.metrics.last_known import LastKnown
from service.metrics.store_calls import MeasuredStore, Observe
from service.metrics.transitions import TransitionCounter
from service.postgres.figures import Figures, QueueFigures
from service.postgres.pool import Database
from service.storage import ObjectStore

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
FIGURES_EVERY = timedelta(seconds=5)
_PHASES = ("starting", "reading", "completing")
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
_TOO_MANY_REQUESTS = 429


class Metrics:
    """Measures one process. `listening` counts the transitions of exports; the other parts call its methods."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._count = Instruments(self._registry)
        self._of_responses = cache(self._instruments_of)  # the library needs longer to find them than to use them
        self._count.build_info.labels(service_version(), platform.python_version()).set(1)
        self._transitions = TransitionCounter(self._count)
        self._pools: dict[str, Database] = {}
        self._phases: Callable[[], Iterable[str]] = tuple
        self._figures: LastKnown[QueueFigures] | None = None
        # A thread of its own: those of exports may all wait for a disk, and many scrapes at once must not occupy them.
        self._thread = ThreadPoolExecutor(1, "metrics")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Count transitions inside the block; after it there is no text any more."""
        unsubscribe = events.subscribe(self._transitions)
        try:
            yield
        finally:
            unsubscribe()
            self._thread.shutdown(wait=False)

    def measured(self, store: ObjectStore, *others: Observe) -> ObjectStore:
        """The same store; every call is measured, and `others` get its result too."""
        return MeasuredStore(store, self._count, *others)

    def watch_pools(self, pools: Mapping[str, Database]) -> None:
        """Measure the use of these pools, and how long calls wait for a connection."""
        for name, pool in pools.items():
            self._pools[name] = pool
            self._count.pool_size.labels(name).set(pool.size)
            pool.on_acquired = self._count.pool_wait_seconds.labels(name).observe

    def watch_attempts(self, slots: int, phases: Callable[[], Iterable[str]]) -> None:
        """Report the attempts of this process: `phases` returns the phase of each."""
        self._count.slots.set(slots)
        self._phases = phases

    def watch_figures(self, database: Database) -> LastKnown[QueueFigures]:
        """Report the figures of the installation; returns them for other readers."""
        self._figures = LastKnown(Figures(database).queue, every=FIGURES_EVERY)
        self._registry.register(DatabaseFigures(self._figures))
        return self._figures

    def count_response(self, route: str | None, method: str, status: int, seconds: float, bucket: str | None) -> None:
        """Count a response of the API. `route` is None for an unknown address; `bucket` is the rate limit that was read."""
        requests, request_seconds = self._of_responses(route or "none", method if method in _METHODS else "other", status)
        requests.inc()
        request_seconds.observe(seconds)
        if status == _TOO_MANY_REQUESTS and bucket is not None:
            self._count.rate_limited.labels(bucket).inc()

    def _instruments_of(
        self, route: str, method: str, status: int
    ) -> tuple[prometheus_client.Counter, prometheus_client.Histogram]:
        return self._count.requests.labels(route, method, status), self._count.request_seconds.labels(route, method)

    def observe_loop_lag(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self._count.loop_lag_seconds.observe(seconds)

    async def text(self) -> bytes:
        """All metrics in the text format of Prometheus. Waits at most a second for the database."""
        if self._figures is not None:
            await self._figures.get()
        phases = Counter(self._phases())
        for phase in _PHASES:
            self._count.running.labels(phase).set(phases[phase])
        for name, pool in self._pools.items():
            self._count.pool_connections.labels(name, "used").set(pool.used)
            self._count.pool_connections.labels(name, "idle").set(pool.idle)
        return await asyncio.get_running_loop().run_in_executor(self._thread, generate_latest, self._registry)


def service_version() -> str:
    """The version of the installed package."""
    try:
        return version("contact-exports")
    except PackageNotFoundError:
        return "unknown"

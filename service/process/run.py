"""Runs the process: starts, serves and works until asked to stop, then shuts down in order."""

import asyncio
import contextlib
import dataclasses
import gc
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from importlib.metadata import version

import structlog

from service import failpoints
from service.admin.app import CONNECTIONS
from service.errors import ServiceError
from service.exports.ownership import Ownership
from service.exports.retention import report_missing_files
from service.exports.runner import Runner
from service.exports.waiting import Waiters
from service.failpoints import failpoint
from service.failures import ExportFailure
from service.metrics.scrape import Metrics
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.process.admin import open_admin
from service.process.build import build_exports, build_ownership, build_runner, build_web_app
from service.process.database_addresses import direct_address
from service.process.descriptors import connections_allowed
from service.process.health import Health
from service.process.loop_lag import LoopLag
from service.process.resources import Resources, open_resources
from service.process.startup import Startup, StartupRules
from service.process.traces import open_traces
from service.process.webhooks import build_deliverer
from service.settings import Settings
from service.web.server import listen
from service.webhooks.deliverer import Deliverer

_OWNER_TIMEOUT = timedelta(seconds=5)
"""Longest that the API stays closed until the store has said which database owns its files."""
_RECORD_TIMEOUT = timedelta(seconds=15)
"""Longest that handing back may take after the grace period: abort uploads, write rows. Then the leases expire."""

log = structlog.get_logger()


class Stop:
    """A request to shut down: orderly at first, at once when repeated."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.repeated = asyncio.Event()
        self._asked_at = 0.0

    def remaining(self, grace: timedelta) -> float:
        """Seconds left of the grace period; 0 if nothing was asked, or asked again."""
        if not self.asked.is_set() or self.repeated.is_set():
            return 0
        return max(0.0, self._asked_at + grace.total_seconds() - time.monotonic())

    def ask(self) -> None:
        """Called by each SIGTERM or SIGINT."""
        self._asked_at = self._asked_at or time.monotonic()
        (self.repeated if self.asked.is_set() else self.asked).set()


async def run(
    settings: Settings, stop: Stop, *, own_files: bool = False, on_listening: Callable[[str], None] = lambda _: None
) -> None:
    """Serve and work until asked to stop. `on_listening` gets the service's address once it accepts requests.

    `own_files`: nothing else can own the files, so they are taken over from another database.

    Raises SchemaMismatch, LoginRefused and StoreOwnedElsewhere, which must be fixed by hand, CannotListen, and the errors of
    `open_resources`.
    """
    tune_garbage_collector()
    if settings.failpoints is not None:
        failpoints.arm(settings.failpoints)
        log.warning("failpoints_armed", failpoints=settings.failpoints)
    metrics = Metrics()
    async with open_traces(os.environ) as traces, open_resources(settings) as opened, metrics.listening():
        resources = dataclasses.replace(opened, store=metrics.measured(opened.store, *traces.on_store_call))
        ownership = build_ownership(resources.store, resources.database, settings)
        startup = _startup(resources, settings, ownership, own_files=own_files)
        waiters = Waiters(ExportJobs(resources.database), resources.priority)
        runner = build_runner(resources, settings, waiters, ownership, traces.around_attempt)
        deliverer = build_deliverer(resources, settings)
        health = Health(resources.database, resources.contacts, resources.store, ownership, startup, lambda: runner.stuck)
        exports = build_exports(resources, settings, runner, waiters)
        app = traces.watched(
            build_web_app(resources, settings, exports, startup=startup, health=health, on_response=metrics.count_response)
        )
        connections = connections_allowed(
            settings.max_connections,
            export_slots=settings.export_slots,
            admin_connections=CONNECTIONS if settings.admin_port else 0,
        )
        grace = timedelta(seconds=settings.grace_seconds)
        serving = listen(app, settings.host, settings.port, connections=connections, patience=lambda: stop.remaining(grace))
        administering = open_admin(resources, settings, metrics, health, runner)
        with waiters.listening():
            async with administering, serving as address, _watch_loop_lag(runner, metrics):
                on_listening(address)
                working = asyncio.create_task(_work(resources, startup, runner, deliverer))
                stopping = asyncio.create_task(stop.asked.wait())
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                health.stop()
                waiters.stop()
                await _shut_down(working, runner, deliverer, stop, grace=grace)


def _startup(resources: Resources, settings: Settings, ownership: Ownership, *, own_files: bool) -> Startup:
    rules = StartupRules(
        own_contacts=settings.contacts_database_url is None, may_migrate=settings.migrate_on_start, own_files=own_files
    )
    return Startup(direct_address(settings), resources.contacts, resources.store, ownership, rules)


async def _work(resources: Resources, startup: Startup, runner: Runner, deliverer: Deliverer) -> None:
    """Start up, then run exports and send webhooks until stopped. Meanwhile the store is probed, which may take a minute.

    Nothing is deleted before the owner of the files is known. A store that does not respond delays the rest by 5 s at most.
    """
    await startup.schema()
    if resources.local_store is not None:
        with contextlib.suppress(ExportFailure):  # the probe reports it
            await resources.local_store.prepare_empty()
    reachable = await startup.contacts()
    background: list[asyncio.Task[None]] = []
    ending = {asyncio.create_task(startup.owner())}
    try:
        for owner in (await asyncio.wait(ending, timeout=_OWNER_TIMEOUT.total_seconds()))[0]:
            owner.result()
        startup.finish()
        log.info("started", version=version("contact-exports"))
        delivering = asyncio.create_task(deliverer.run())
        background += [
            delivering,
            asyncio.create_task(startup.store()),
            asyncio.create_task(_look_for_files(resources)),
        ]
        running = asyncio.create_task(runner.run())
        ending.add(running)
        if not reachable:
            ending.add(asyncio.create_task(startup.contacts_later()))
        while running in ending:
            done, ending = await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a check that finds a mismatch later ends the work
        await delivering
    finally:
        tasks = [*background, *ending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _look_for_files(resources: Resources) -> None:
    """Log if the store is not the one that has the files, as after a change of STORAGE_URL."""
    with contextlib.suppress(ServiceError):  # other checks report it
        await report_missing_files(ExportFiles(resources.database), resources.store)


async def _shut_down(
    working: asyncio.Task[None], runner: Runner, deliverer: Deliverer, stop: Stop, *, grace: timedelta
) -> None:
    """Let exports and webhooks continue for the grace period, then hand them back. Raises the error that ended the work."""
    runner.stop()
    deliverer.stop()
    if not runner.started:
        working.cancel()
    elif not working.done():
        log.info("stopping", running=runner.running, webhooks=deliverer.running)
        await failpoint("shutdown_asked")
        hurry = asyncio.create_task(stop.repeated.wait())
        patience = grace.total_seconds() if runner.running or deliverer.running else 0
        await asyncio.wait({working, hurry}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await failpoint("shutdown_handing_back")
        runner.hand_back()
        deliverer.hand_back()
        await asyncio.wait({working}, timeout=_RECORD_TIMEOUT.total_seconds())
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    log.info("stopped")


@asynccontextmanager
async def _watch_loop_lag(runner: Runner, metrics: Metrics) -> AsyncIterator[None]:
    """Measure event-loop lag inside the block."""
    watching = asyncio.create_task(LoopLag(metrics.observe_loop_lag).watch(lambda: runner.running > 0))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def tune_garbage_collector() -> None:
    """A batch makes a thousand short-lived dictionaries; with the default threshold they are walked again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

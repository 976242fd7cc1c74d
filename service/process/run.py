"""The running program: opens things in order, closes them in reverse. No behaviour of its own."""

import asyncio
import contextlib
import functools
import gc
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog
from aiohttp import web
from limits.aio.storage import Storage as RateLimitStorage

from service import failpoints
from service.access import Access
from service.errors import CannotListen, ExportFailure
from service.exports.attempt import AttemptLimits, Attempts
from service.exports.lease import Leases
from service.exports.leftovers import Leftovers
from service.exports.priority import RequestPriority
from service.exports.retention import Retention
from service.exports.runner import PeriodicTask, Runner, RunnerLimits
from service.exports.use_cases import Exports
from service.failpoints import failpoint
from service.postgres.access import AccessTables
from service.postgres.claims import Claims
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from service.postgres.rate_limits import PostgresStorage, open_storage
from service.postgres.snapshot import ContactSource
from service.process.health import Health
from service.process.loop_lag import LoopLag
from service.process.resources import open_database, open_renewals, open_store
from service.process.startup import Startup
from service.settings import Settings
from service.storage import ObjectStore
from service.storage.directory import DirectoryStore
from service.web.app import create_app
from service.web.cursors import Cursors
from service.web.rate_limits import Throttle

_SETTLE_SECONDS = 15.0
"""What handing back may take after the grace period: abort uploads, write rows. After it the leases do the rest."""
_ABANDONED_SECONDS = 600.0
"""How often the store is listed for uploads that no row names."""
_PRUNE_SECONDS = 60.0
_FORGET_SECONDS = 600.0
"""How often old rows are removed, a batch at a time."""
_ORPHANS_SECONDS = 86400.0
"""How often the store is listed for files that no row names."""
_CONNECTION_SECONDS = 1.0
"""How long requests under way may take once nothing runs any more."""
_SWEEP_GRACE_LEASES = 2
"""An attempt's own calls may be on their way for this many leases after its end; each has a deadline below that."""

log = structlog.get_logger()


class Stop:
    """The wish to end: politely at first, at once when repeated."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.repeated = asyncio.Event()

    def ask(self) -> None:
        """Called by each SIGTERM or SIGINT."""
        (self.repeated if self.asked.is_set() else self.asked).set()


async def run(settings: Settings, stop: Stop, *, listening: Callable[[str], None] = lambda _: None) -> None:
    """Serve and work until asked to stop. `listening` is called with the service's address once it accepts requests.

    Raises SchemaMismatch where only a person can make the database fit.
    """
    tune_garbage_collector()
    if settings.failpoints is not None:
        failpoints.arm(settings.failpoints)
        log.warning("failpoints_armed", failpoints=settings.failpoints)
    async with (
        open_database(settings) as database,
        open_renewals(settings) as renewals,
        open_store(settings, database) as store,
    ):
        source = ContactSource(settings.contacts_dsn, settings.fetch_timeout_seconds)
        startup = Startup(
            settings.direct_dsn,
            source,
            store,
            own_contacts=settings.contacts_database_url is None,
            may_migrate=settings.migrate_on_start,
        )
        windows = open_storage(settings.rate_limit_storage_url.get_secret_value(), database)
        priority = RequestPriority()
        runner = make_runner(settings, database, Claims(database, renewals=renewals), source, store, windows, priority)
        health = Health(database, store, startup, lambda: runner.stuck)
        async with (
            serve_http(settings, database, store, windows, startup, health, runner, priority, listening),
            _lag_watched(runner),
        ):
            working = asyncio.create_task(_work(settings, database, startup, store, runner))
            stopping = asyncio.create_task(stop.asked.wait())
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            health.stop()
            await _drain(working, runner, stop, settings.grace_seconds)


@asynccontextmanager
async def _lag_watched(runner: Runner) -> AsyncIterator[None]:
    """Measure inside the block how late the event loop is while exports run."""
    watching = asyncio.create_task(LoopLag().watch(lambda: runner.running > 0))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _work(settings: Settings, database: Database, startup: Startup, store: ObjectStore, runner: Runner) -> None:
    await startup.schema()
    if isinstance(store, DirectoryStore):
        with contextlib.suppress(ExportFailure):  # the probe says what is wrong
            await store.adopt()
    reachable = await startup.contacts()
    startup.finish()
    log.info("started")
    running = asyncio.create_task(runner.run())
    probing = asyncio.create_task(startup.store())  # it may take a minute, and ends nothing
    checking = None if reachable else asyncio.create_task(startup.contacts_later())
    try:
        if checking is not None:
            await asyncio.wait({running, checking}, return_when=asyncio.FIRST_COMPLETED)
            if checking.done():
                checking.result()
        await running
    finally:
        tasks = [task for task in (running, probing, checking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(working: asyncio.Task[None], runner: Runner, stop: Stop, grace: float) -> None:
    """Let running exports go on for the grace period, then hand them back. Raises what ended the work before its time."""
    runner.stop()
    if not runner.started:
        working.cancel()
    elif not working.done():
        log.info("stopping", running=runner.running)
        await failpoint("shutdown_asked")
        hurry = asyncio.create_task(stop.repeated.wait())
        await asyncio.wait({working, hurry}, timeout=grace if runner.running else 0, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        await failpoint("shutdown_handing_back")
        runner.hand_back()
        await asyncio.wait({working}, timeout=_SETTLE_SECONDS)
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working
    log.info("stopped")


@asynccontextmanager
async def serve_http(
    settings: Settings,
    database: Database,
    store: ObjectStore,
    windows: RateLimitStorage,
    startup: Startup,
    health: Health,
    runner: Runner,
    priority: RequestPriority,
    listening: Callable[[str], None],
) -> AsyncIterator[None]:
    """Accept requests inside the block."""
    throttle = Throttle(
        windows,
        create_export=settings.rate_limit_create,
        get_export=settings.rate_limit_status,
        other=settings.rate_limit_other,
    )
    exports = Exports(
        ExportJobs(database),
        ExportFiles(database),
        store,
        max_attempts=settings.max_attempts,
        max_range_days=settings.max_range_days,
        created=runner.wake,
        cancelled=runner.cancel,
    )
    app = create_app(
        callers=Access(AccessTables(database)),
        exports=exports,
        cursors=Cursors(functools.partial(AccessTables(database).shared_secret, "cursors")),
        throttle=throttle,
        priority=priority,
        alive=health.alive,
        ready=health.ready,
        started=startup.check,
        local_files=store.open_link if isinstance(store, DirectoryStore) else None,
        public_url=settings.public_url,
    )
    # The default access log would print signed links; the application logs its requests itself.
    runner_of_app = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_CONNECTION_SECONDS)
    await runner_of_app.setup()
    try:
        try:
            await web.TCPSite(runner_of_app, settings.host, settings.port).start()
        except OSError as error:
            raise CannotListen(detail=f"{settings.host}:{settings.port}: {error.strerror}") from None
        host, port = runner_of_app.addresses[0][:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("listening", address=address)
        listening(address)
        yield
    finally:
        await runner_of_app.cleanup()


def make_runner(
    settings: Settings,
    database: Database,
    claims: Claims,
    source: ContactSource,
    store: ObjectStore,
    windows: RateLimitStorage,
    priority: RequestPriority,
) -> Runner:
    """The job runner of this process, under a name that operators can tell it by."""
    lease = timedelta(seconds=settings.lease_seconds)
    retry_pause = timedelta(seconds=settings.retry_seconds)
    leases = Leases(claims, duration=lease, no_progress=timedelta(seconds=settings.no_progress_seconds))
    limits = AttemptLimits(
        part_size=settings.part_size,
        duration=timedelta(seconds=settings.max_export_seconds),
        retry_pause=retry_pause,
        file_lifetime=timedelta(hours=settings.file_lifetime_hours),
    )
    sweep = Leftovers(claims, store, grace=lease * _SWEEP_GRACE_LEASES, retry_pause=retry_pause)
    retention = Retention(
        ExportFiles(database),
        store,
        link_lifetime=timedelta(seconds=settings.link_seconds),
        history=timedelta(days=settings.history_days),
    )
    chores = [
        PeriodicTask("clean", sweep.clean, settings.sweep_seconds),
        PeriodicTask("expire", retention.expire, settings.sweep_seconds),
        PeriodicTask("delete_files", retention.delete_files, settings.sweep_seconds),
        PeriodicTask("abandoned", sweep.abort_abandoned, _ABANDONED_SECONDS),
        PeriodicTask("orphans", sweep.delete_orphans, _ORPHANS_SECONDS),
        PeriodicTask("forget", retention.forget, _FORGET_SECONDS),
        PeriodicTask("idempotency_keys", ExportJobs(database).prune_idempotency_keys, _PRUNE_SECONDS),
    ]
    if isinstance(windows, PostgresStorage):
        chores.append(PeriodicTask("rate_limits", windows.prune, _PRUNE_SECONDS))
    return Runner(
        claims,
        leases,
        Attempts(claims, leases, source, store, priority, limits),
        sweep.rescue,
        chores,
        worker=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}",
        limits=RunnerLimits(
            slots=settings.export_slots,
            space_slots=settings.space_slots,
            lease=lease,
            poll=settings.poll_seconds,
            rescue=settings.sweep_seconds,
        ),
    )


def tune_garbage_collector() -> None:
    """A batch makes a thousand short-lived dictionaries; the default threshold walks them again and again for nothing."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)

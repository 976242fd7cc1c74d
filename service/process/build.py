"""Builds the two halves of the process from its resources and settings: the HTTP application and the job runner."""

import os
import secrets
import socket
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from importlib.metadata import version

import structlog
from aiohttp import web

from service.access import Access
from service.contacts.use_cases import Contacts
from service.errors import StoreOwnedElsewhere
from service.exports.attempt import AttemptLimits, Attempts
from service.exports.lease import Leases
from service.exports.leftovers import GRACE_LEASES, Leftovers
from service.exports.ownership import Ownership
from service.exports.periodic import PeriodicTask
from service.exports.rescue import Rescue
from service.exports.retention import Retention
from service.exports.runner import AroundAttempt, Runner, RunnerOptions
from service.exports.use_cases import ExportRules, Exports, ProcessHooks
from service.exports.waiting import Waiters
from service.postgres.access import AccessTables
from service.postgres.claims import Claims
from service.postgres.database_identity import database_identity
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from service.postgres.pool import Database
from service.postgres.processes import Process, Processes
from service.postgres.webhook_deliveries import WebhookDeliveries
from service.process.health import Health
from service.process.resources import Resources
from service.process.startup import Startup
from service.settings import Settings
from service.storage import ObjectStore
from service.storage.directory import DirectoryStore, LocalFile
from service.web.app import WebServices, build_app
from service.web.files import OpenLink
from service.web.middleware import OnResponse
from service.web.paging import Cursors
from service.web.rate_limits import RateLimitBucket, Throttle

_LIST_UPLOADS_EVERY = timedelta(minutes=10)
_LIST_OBJECTS_EVERY = timedelta(days=1)
_FORGET_EVERY = timedelta(minutes=10)
_PRUNE_EVERY = timedelta(minutes=1)
_ANNOUNCE_EVERY = timedelta(seconds=10)
"""The views for operators count a process as gone after a minute."""
_END_WEBHOOKS_EVERY = timedelta(minutes=1)
_POLL_FOR_WAITERS_EVERY = timedelta(seconds=1)

log = structlog.get_logger()


def build_web_app(
    resources: Resources, settings: Settings, exports: Exports, *, startup: Startup, health: Health, on_response: OnResponse
) -> web.Application:
    """The HTTP application."""
    rate_limits = {bucket: getattr(settings, bucket.setting) for bucket in RateLimitBucket}
    services = WebServices(
        access=Access(AccessTables(resources.database)),
        exports=exports,
        contacts=Contacts(
            resources.contact_reads,
            resources.priority,
            max_range_days=settings.max_range_days,
            large_pages=max(1, settings.contacts_pool_size // 2),
        ),
        rate_limits=Throttle(resources.rate_limit_windows, rate_limits),
        cursors=Cursors(partial(resources.secrets.get, "cursors")),
        priority=resources.priority,
        require_started=startup.require_started,
        alive=health.alive,
        ready=health.ready,
        open_link=_open_link(resources.local_store, settings, startup) if resources.local_store else None,
        on_response=on_response,
    )
    return build_app(
        services,
        public_url=settings.public_url,
        api_docs=settings.api_docs,
        cors_origins=settings.cors_origins.split(",") if settings.cors_origins else (),
    )


def build_exports(resources: Resources, settings: Settings, runner: Runner, waiters: Waiters) -> Exports:
    """The use cases of the export API."""
    return Exports(
        ExportJobs(resources.database),
        ExportFiles(resources.database),
        resources.store,
        ExportRules(settings.max_attempts, settings.max_range_days, settings.space_queue_limit),
        waiters,
        ProcessHooks(runner.wake, runner.cancel, resources.priority.paused),
    )


def _open_link(store: DirectoryStore, settings: Settings, startup: Startup) -> OpenLink:
    """The way to a file's link. Until startup is finished the shared secret may not exist, and links raise Starting."""

    async def open_link(object_name: str, query: Mapping[str, str]) -> LocalFile:
        if settings.link_secret is None:
            startup.require_started()
        return await store.open_link(object_name, query)

    return open_link


def build_runner(
    resources: Resources, settings: Settings, waiters: Waiters, ownership: Ownership, around_attempt: AroundAttempt
) -> Runner:
    """The job runner. Its worker name tells operators the host and the process. It pauses while the store is not ours."""
    lease = timedelta(seconds=settings.lease_seconds)
    retry_pause = timedelta(seconds=settings.retry_seconds)
    worker = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
    claims = Claims(resources.database, renewals=resources.renewals)
    leases = Leases(claims, duration=lease, no_progress=timedelta(seconds=settings.no_progress_seconds))
    limits = AttemptLimits(
        part_size=settings.part_size,
        duration=timedelta(seconds=settings.max_export_seconds),
        retry_pause=retry_pause,
        file_lifetime=timedelta(hours=settings.file_lifetime_hours),
    )
    runner = Runner(
        claims,
        leases,
        Attempts(claims, leases, resources.contacts, resources.store, resources.priority, limits),
        Rescue(claims, retry_pause=retry_pause).run,
        [*_periodic_tasks(resources, settings, claims, waiters, ownership), _announcement(resources, settings, worker)],
        RunnerOptions(
            worker=worker,
            slots=settings.export_slots,
            space_slots=settings.space_slots,
            lease=lease,
            poll=timedelta(seconds=settings.poll_seconds),
            rescue=timedelta(seconds=settings.sweep_seconds),
            around_attempt=around_attempt,
        ),
    )
    ownership.on_lost, ownership.on_regained = partial(_pause, runner), partial(_resume, runner)
    return runner


def _pause(runner: Runner) -> None:
    log.error("store_owned_elsewhere", detail=StoreOwnedElsewhere.message)
    runner.pause()


def _resume(runner: Runner) -> None:
    log.info("store_owned_again")
    runner.resume()


def build_ownership(store: ObjectStore, database: Database, settings: Settings) -> Ownership:
    """The check whether the files in the store belong to this database."""
    return Ownership(store, partial(database_identity, database), fresh=timedelta(seconds=settings.sweep_seconds))


def _periodic_tasks(
    resources: Resources, settings: Settings, claims: Claims, waiters: Waiters, ownership: Ownership
) -> list[PeriodicTask]:
    often = timedelta(seconds=settings.sweep_seconds)
    leftovers = Leftovers(claims, resources.store, grace=timedelta(seconds=settings.lease_seconds) * GRACE_LEASES)
    retention = Retention(
        ExportFiles(resources.database),
        resources.store,
        link_lifetime=timedelta(seconds=settings.link_seconds),
        history=timedelta(days=settings.history_days),
    )
    return [
        PeriodicTask("owner", ownership.watch, often),
        PeriodicTask("clean", ownership.guarded(leftovers.clean), often),
        PeriodicTask("expire", retention.expire, often),
        PeriodicTask("delete_files", ownership.guarded(retention.delete_files), often),
        PeriodicTask("abandoned", ownership.guarded(leftovers.abort_abandoned), _LIST_UPLOADS_EVERY),
        PeriodicTask("orphans", ownership.guarded(leftovers.delete_orphans), _LIST_OBJECTS_EVERY),
        PeriodicTask("waiters", waiters.poll, _POLL_FOR_WAITERS_EVERY),
        PeriodicTask("forget", retention.forget, _FORGET_EVERY),
        PeriodicTask("webhooks", WebhookDeliveries(resources.database).end_without_endpoint, _END_WEBHOOKS_EVERY),
        PeriodicTask("idempotency_keys", ExportJobs(resources.database).prune_idempotency_keys, _PRUNE_EVERY),
        PeriodicTask("rate_limits", resources.rate_limit_windows.prune, _PRUNE_EVERY),
    ]


def _announcement(resources: Resources, settings: Settings, worker: str) -> PeriodicTask:
    process = Process(worker, version("contact-exports"), settings.export_slots, settings.space_slots)
    return PeriodicTask("announce", partial(Processes(resources.database).announce, process), _ANNOUNCE_EVERY)

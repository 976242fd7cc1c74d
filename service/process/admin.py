"""The operator's port of the process: what it shows and does, and its socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.admin.app import CONNECTIONS, AdminServices, build_admin_app
from service.exports.runner import Runner
from service.metrics.scrape import Metrics
from service.process.health import Health
from service.process.resources import Resources
from service.settings import Settings
from service.web.server import listen


@asynccontextmanager
async def open_admin(
    resources: Resources, settings: Settings, metrics: Metrics, health: Health, runner: Runner
) -> AsyncIterator[None]:
    """Listen on ADMIN_PORT inside the block, unless it is 0. Raises CannotListen."""
    if not settings.admin_port:
        yield
        return
    metrics.watch_pools(
        {"main": resources.database, "renewals": resources.renewals, "contacts": resources.contact_reads.pool}
    )
    metrics.watch_attempts(settings.export_slots, runner.phases)
    figures = metrics.watch_figures(resources.database)
    app = build_admin_app(AdminServices(metrics, health.alive, health.ready))
    try:
        async with listen(app, settings.admin_host, settings.admin_port, connections=CONNECTIONS, prefix="ADMIN_"):
            yield
    finally:
        await figures.stop()

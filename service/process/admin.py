"""The operator's port of the process: what it shows and does, and its socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.access import Access
from service.admin.app import CONNECTIONS, AdminServices, build_admin_app
from service.admin.situation import Situation
from service.exports.acts import OperatorActs, OperatorHooks
from service.exports.runner import Runner
from service.metrics.scrape import Metrics
from service.postgres.access import AccessTables
from service.postgres.acts import ExportActs
from service.postgres.overview import Overview
from service.postgres.webhook_deliveries import WebhookDeliveries
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
    database = resources.database
    metrics.watch_pools({"main": database, "renewals": resources.renewals, "contacts": resources.contact_reads.pool})
    metrics.watch_attempts(settings.export_slots, runner.phases)
    figures = metrics.watch_figures(database)
    overview, tables = Overview(database), AccessTables(database)
    situation = Situation(overview, figures)
    services = AdminServices(
        metrics=metrics,
        alive=health.alive,
        ready=health.ready,
        situation=situation,
        overview=overview,
        deliveries=WebhookDeliveries(database),
        acts=OperatorActs(ExportActs(database), OperatorHooks(runner.wake, runner.cancel)),
        access=Access(tables),
        tables=tables,
    )
    app = build_admin_app(services, token=settings.admin_token.get_secret_value() if settings.admin_token else None)
    try:
        async with listen(app, settings.admin_host, settings.admin_port, connections=CONNECTIONS, prefix="ADMIN_"):
            yield
    finally:
        await situation.stop()
        await figures.stop()

"""The operator's port on a real socket, with the test's database."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

from aiohttp.test_utils import TestClient

from service.access import Access
from service.admin.app import AdminServices, build_admin_app
from service.admin.situation import Situation
from service.exports.acts import OperatorActs, OperatorHooks
from service.metrics.scrape import Metrics
from service.postgres.access import AccessTables
from service.postgres.acts import ExportActs
from service.postgres.overview import Overview
from service.postgres.pool import Database
from service.postgres.webhook_deliveries import WebhookDeliveries
from service.web.health import Readiness
from tests.support.web import Client, GuardedTestServer

TOKEN = "a-token-of-the-tests"
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


@dataclass
class Admin:
    """A client of the operator's port, whose cookies are kept."""

    client: Client
    metrics: Metrics
    woken: list[None] = field(default_factory=list)
    cancelled: list[UUID] = field(default_factory=list)

    async def log_in(self) -> None:
        """Send the token; the client has the cookie afterwards."""
        response = await self.client.post("/login", data={"token": TOKEN}, allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (303, "/")

    async def text(self, path: str, status: int = 200) -> str:
        """The text of a page, which must have this status."""
        response = await self.client.get(path, allow_redirects=False)
        assert response.status == status, await response.text()
        return await response.text()

    async def csrf(self) -> str:
        """The token of the session's forms."""
        found = _CSRF.search(await self.text("/exports"))
        assert found
        return found[1]

    async def post(self, path: str, **fields: str) -> tuple[int, str]:
        """Send a form with the session's token; the status, and the address or the text of the response."""
        form = {"csrf": await self.csrf(), **fields}
        response = await self.client.post(path, data=form, allow_redirects=False)
        return response.status, response.headers.get("Location") or await response.text()


@asynccontextmanager
async def admin(database_url: str, *, token: str | None = TOKEN) -> AsyncIterator[Admin]:
    """Run the operator's port; a client of it has not logged in."""
    metrics = Metrics()
    woken: list[None] = []
    cancelled: list[UUID] = []

    async def ready() -> Readiness:
        return Readiness({"database": None})

    async with Database(database_url, application_name="tests", size=5) as database, metrics.listening():
        figures = metrics.watch_figures(database)
        overview, tables = Overview(database), AccessTables(database)
        situation = Situation(overview, figures)
        services = AdminServices(
            metrics=metrics,
            alive=lambda: True,
            ready=ready,
            situation=situation,
            overview=overview,
            deliveries=WebhookDeliveries(database),
            acts=OperatorActs(ExportActs(database), OperatorHooks(lambda: woken.append(None), cancelled.append)),
            access=Access(tables),
            tables=tables,
        )
        async with TestClient(GuardedTestServer(build_admin_app(services, token=token))) as client:
            yield Admin(client, metrics, woken, cancelled)
        await situation.stop()
        await figures.stop()

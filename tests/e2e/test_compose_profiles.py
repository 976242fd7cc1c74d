"""What the profiles of compose.yaml add, with Debian's programs and processes in place of containers."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.client import ExportClient
from tests.support import docs, stores
from tests.support.calls import EXPORTS
from tests.support.contacts import Tenant, tenant, whole_range
from tests.support.program import free_port, running
from tests.support.promql import MONITORING, alerts
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until, until_true

pytestmark = pytest.mark.debian
_STATUS_EVERY = 0.02


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory as object store."""
    async with stores.directory_store(tmp_path / "files") as store:
        yield store


@asynccontextmanager
async def daemon(*command: str) -> AsyncIterator[None]:
    """A program that runs inside the block. It must still run at the end."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield
        assert process.returncode is None, command
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def responds(url: str) -> bool:
    """Whether the address returns 200."""
    try:
        async with aiohttp.request("GET", url) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


@asynccontextmanager
async def proxy(ports: list[str], directory: Path) -> AsyncIterator[str]:
    """HAProxy with the configuration of the profile `replicas` in front of these ports; yields its address."""
    configuration = (docs.ROOT / "deploy" / "proxy" / "haproxy.cfg").read_text()
    for name, port in zip(("service", "replica"), ports, strict=True):
        configuration = configuration.replace(f"{name}:8080", f"127.0.0.1:{port}")
    port = free_port()
    (directory / "haproxy.cfg").write_text(configuration.replace("bind :8000", f"bind 127.0.0.1:{port}"))
    async with daemon("/usr/sbin/haproxy", "-db", "-f", str(directory / "haproxy.cfg")):
        address = f"http://127.0.0.1:{port}"
        await until(lambda: responds(f"{address}/readyz"))
        yield address


async def poll(address: str, space: Tenant, export_id: int, statuses: list[int]) -> None:
    """Read the status of an export again and again, half of the time over a new connection."""
    async with aiohttp.ClientSession() as session:
        for number in range(1_000_000):
            headers = space.headers | ({"Connection": "close"} if number % 2 else {})
            async with session.get(f"{address}{EXPORTS}/{export_id}", headers=headers) as response:
                statuses.append(response.status)
            await asyncio.sleep(_STATUS_EVERY)


async def test_no_request_fails_while_the_replicas_behind_the_proxy_are_replaced(
    database_url: str, files: StoreUnderTest, tmp_path: Path
) -> None:
    space = await tenant(database_url)
    ports = [free_port(), free_port()]
    settings = [{"DATABASE_URL": database_url, **files.settings, "PORT": port} for port in ports]
    statuses: list[int] = []
    async with AsyncExitStack() as stack:
        before = [await stack.enter_async_context(running(each)) for each in settings]
        address = await stack.enter_async_context(proxy(ports, tmp_path))
        client = await stack.enter_async_context(ExportClient(address, space.key))
        export = await client.wait(await client.create(whole_range()))
        assert (await client.download(export, tmp_path / "file")).rows == 0
        polling = asyncio.create_task(poll(address, space, export.export_id, statuses))
        for old, each in zip(before, settings, strict=True):
            assert await old.end() == 0
            new = await stack.enter_async_context(running(each))
            await until_true(partial(new.events, "request"))
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
    assert len(statuses) > 20
    assert set(statuses) == {200}


async def test_prometheus_scrapes_the_processes_and_loads_the_alerts(
    database_url: str, files: StoreUnderTest, tmp_path: Path
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    async with running({"DATABASE_URL": database_url, **files.settings, "ADMIN_PORT": free_port()}) as program:
        for name in ("prometheus.yaml", "alerts.yaml"):
            text = (MONITORING / name).read_text().replace("service:8082", program.admin.removeprefix("http://"))
            (tmp_path / name).write_text(text.replace("scrape_interval: 15s", "scrape_interval: 1s"))
        command = ("prometheus", f"--config.file={tmp_path}/prometheus.yaml", f"--storage.tsdb.path={tmp_path}/data")
        async with daemon(*command, f"--web.listen-address=127.0.0.1:{port}"):
            await until(lambda: responds(f"{address}/-/ready"))

            async def scraped() -> bool:
                result = await get(f"{address}/api/v1/query?query=contact_exports_build_info")
                return [each["metric"]["job"] for each in result["result"]] == ["contact-exports"]

            await until(scraped)
            groups = (await get(f"{address}/api/v1/rules"))["groups"]
            assert [rule["name"] for group in groups for rule in group["rules"]] == [rule["alert"] for rule in alerts()]


async def get(url: str) -> Any:
    """The data of a response of Prometheus."""
    async with aiohttp.request("GET", url) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["data"]

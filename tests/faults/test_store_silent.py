"""The API while the object store does not respond at all."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.client import ExportClient, ExportStatus
from tests.support import s3_faults, stores
from tests.support.contacts import WHOLE_RANGE, Tenant
from tests.support.object_stores import use_credentials
from tests.support.program import Program, started
from tests.support.s3 import S3Access
from tests.support.s3_faults import ANY, S3Faults


@pytest.fixture
async def program(
    s3: S3Access, bucket: str, faults: S3Faults, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Program]:
    """A program that runs no exports and whose store does not respond from the start."""
    use_credentials(monkeypatch, s3)
    faults.always(ANY, s3_faults.hang)
    async with stores.s3_store(s3, bucket) as store:
        settings = {"DATABASE_URL": database_url, **store.settings, "S3_ENDPOINT_URL": faults.endpoint_url}
        async with started(settings | {"EXPORT_SLOTS": "0"}) as program:
            await program.listening()
            yield program


@pytest.mark.long
async def test_create_requests_are_accepted_while_the_store_does_not_respond(program: Program, space: Tenant) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession(headers=space.headers) as session:
        while True:
            url = f"{program.address}/public-api/v1/contacts/exports"
            async with session.post(url, json=WHOLE_RANGE) as response:
                if response.status == 202:
                    break
                assert response.status == 503
            await asyncio.sleep(0.05)
    async with ExportClient(program.address, space.key) as client:
        assert (await client.status(1)).status is ExportStatus.QUEUED
    assert await program.end() == 0


async def test_readiness_responds_and_probes_a_silent_store_once_for_all_requests(
    program: Program, faults: S3Faults
) -> None:
    async def ready(session: aiohttp.ClientSession) -> int:
        async with session.get(f"{program.address}/readyz") as response:
            assert set((await response.json())["checks"]) >= {"store", "database"}
            return response.status

    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        assert set(await asyncio.gather(*(ready(session) for _ in range(20)))) == {503}
        assert await ready(session) == 503
    assert faults.seen.count("CreateMultipartUpload") <= 2, "one probe at startup, and one for all requests"

"""What the API does while the store does not answer at all."""

import asyncio
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from service.client import ExportClient
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
    """The program, which makes no exports, before a store that is silent from the start."""
    use_credentials(monkeypatch, s3)
    faults.always(ANY, s3_faults.hang)
    async with stores.s3_store(s3, bucket) as store:
        settings = {"DATABASE_URL": database_url, **store.settings, "S3_ENDPOINT_URL": faults.endpoint_url}
        async with started(settings | {"EXPORT_SLOTS": "0"}) as program:
            await program.listening()
            yield program


async def test_exports_are_accepted_at_once_though_the_store_is_silent_from_the_start(
    program: Program, space: Tenant
) -> None:
    async with asyncio.timeout(5), aiohttp.ClientSession(headers=space.headers) as session:
        while True:
            url = f"{program.address}/public-api/v1/contacts/exports"
            async with session.post(url, json=WHOLE_RANGE) as answer:
                if answer.status == 202:
                    break
                assert answer.status == 503
            await asyncio.sleep(0.05)
    async with ExportClient(program.address, space.key) as client:
        status = await anext(client.statuses(1))
    assert status["status"] == "queued"
    started_at = time.monotonic()
    assert await program.end() == 0
    assert time.monotonic() - started_at < 15


async def test_readiness_is_answered_soon_and_asks_a_silent_store_once_however_often_it_is_asked(
    program: Program, faults: S3Faults
) -> None:
    async def ready(session: aiohttp.ClientSession) -> int:
        async with session.get(f"{program.address}/readyz") as answer:
            assert set((await answer.json())["checks"]) >= {"store", "database"}
            return answer.status

    async with asyncio.timeout(15), aiohttp.ClientSession() as session:
        assert set(await asyncio.gather(*(ready(session) for _ in range(20)))) == {503}
        assert await ready(session) == 503
    assert faults.seen.count("CreateMultipartUpload") <= 2, "one at the start, and one for all who asked"

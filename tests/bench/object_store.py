"""The comparison with an S3 server as store. Informative only, because the server runs on the same cores."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING

from tests.bench.bench import Bench, Figures
from tests.bench.contents import Expected, expected
from tests.bench.ours import Service, service
from tests.bench.rivals import Rivals
from tests.bench.workloads import WORKLOADS, YEAR, Workload
from tests.support import s3, stores
from tests.support.contacts import Tenant
from tests.support.s3 import S3Access
from tests.support.stores import StoreUnderTest

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_RIVAL = "psql_igzip1"
_ROUNDS = 3
_POLL_SECONDS = 0.05


async def measure(bench: Bench) -> Figures:
    """Seconds to a complete object: the service uploads parts, the rival writes a file and uploads it by one PUT."""
    contacts = await bench.contacts()
    rivals = Rivals(contacts.dsn, bench.server.pid, bench.directory)
    lacking = rivals.missing(_RIVAL)
    bench.missing.update(lacking)
    figures: Figures = {}
    with s3.store() as access:
        async with (
            bucket_of(access) as (under_test, bucket),
            access.client() as client,
            service(contacts.dsn, under_test.settings, bench.server.pid) as ours,
        ):
            for name in bench.plan.workloads:
                comparison = _Comparison(bench, contacts.spaces[0], WORKLOADS[name], client, bucket)
                comparison.expected = await expected(contacts.dsn, contacts.spaces[0].space_id, YEAR, WORKLOADS[name])
                for number in range(min(_ROUNDS, bench.plan.rounds)):
                    bench.say(f"s3, {name}: round {number + 1}")
                    await comparison.ours(ours)
                    if not lacking:
                        await comparison.rival(rivals)
                figures[name] = comparison.figures()
    return {"s3": figures}


@asynccontextmanager
async def bucket_of(access: S3Access) -> AsyncIterator[tuple[StoreUnderTest, str]]:
    """Create a bucket for the block and put its credentials into this process's environment, where S3 clients look."""
    before = dict(os.environ)
    os.environ.update(stores.credentials(access))
    try:
        async with s3.bucket(access) as bucket, stores.s3_store(access, bucket) as under_test:
            yield under_test, bucket
    finally:
        os.environ.clear()
        os.environ.update(before)


class _Comparison:
    """One workload and one bucket, which contains at most one object at a time."""

    def __init__(self, bench: Bench, space: Tenant, workload: Workload, client: "S3Client", bucket: str) -> None:
        self.expected: Expected
        self._space = space
        self._workload = workload
        self._client = client
        self._bucket = bucket
        self._file = bench.directory / "object.gz"
        self._ours: list[float] = []
        self._rival: list[float] = []

    async def ours(self, ours: Service) -> None:
        """Run one export, by multipart upload."""
        export = await ours.export(self._space, YEAR, self._workload, poll=_POLL_SECONDS)
        self._ours.append(export.seconds)
        await self._check()

    async def rival(self, rivals: Rivals) -> None:
        """Run one pipe into a file and upload it by one PUT of a client that is already open."""
        run = await asyncio.to_thread(rivals.run, _RIVAL, self._space.space_id, YEAR, self._workload)
        started = time.perf_counter()
        with run.file.open("rb") as body:
            await self._client.put_object(Bucket=self._bucket, Key="exports/rival", Body=body)
        self._rival.append(run.seconds + time.perf_counter() - started)
        run.file.unlink()
        await self._check()

    def figures(self) -> Figures:
        """Return the medians, and the rival's median divided by ours."""
        ours, rival = median(self._ours), median(self._rival) if self._rival else None
        return {"seconds": ours, f"{_RIVAL}_put_seconds": rival, "ratio": rival / ours if rival else None}

    async def _check(self) -> None:
        """Download the only object but the marker, check it, and delete it."""
        listing = await self._client.list_objects_v2(Bucket=self._bucket)
        (key,) = [entry["Key"] for entry in listing["Contents"] if not entry["Key"].endswith("/.owner.json")]
        response = await self._client.get_object(Bucket=self._bucket, Key=key)
        with self._file.open("wb") as written:
            async for chunk in response["Body"].iter_chunks(1024 * 1024):
                written.write(chunk)
        await asyncio.to_thread(self.expected.check, self._file)
        await self._client.delete_object(Bucket=self._bucket, Key=key)

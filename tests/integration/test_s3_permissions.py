"""The S3 policy of docs/operating.md is enough, and each of its permissions is needed."""

import json
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from aiohttp import web

from service.client import ExportClient, ExportStatus
from service.exports.leftovers import Leftovers
from service.exports.rescue import Rescue
from service.failures import ExportFailure, StorageRefused
from service.postgres.claims import Claims
from service.postgres.pool import Database
from service.storage import ObjectStore
from service.storage.s3 import S3Settings, S3Store
from tests.e2e.conftest import connection, space
from tests.support import docs, stores
from tests.support.calls import cancel
from tests.support.contacts import Tenant, add_contacts, whole_range
from tests.support.object_stores import PART, fetch, use_credentials
from tests.support.program import running
from tests.support.s3 import S3Access
from tests.support.s3_faults import ANY, Forward, S3Faults, respond
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_row

__all__ = ["connection", "space"]

OPERATIONS = {
    # Amazon S3's documentation says which permission each operation needs.
    "s3:PutObject": ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"),
    "s3:GetObject": ("GetObject", "HeadObject"),
    "s3:DeleteObject": ("DeleteObject",),
    "s3:AbortMultipartUpload": ("AbortMultipartUpload",),
    "s3:ListBucket": ("ListObjectsV2", "HeadBucket"),
    "s3:ListBucketMultipartUploads": ("ListMultipartUploads",),
}
POLICY = json.loads(docs.block("json", "docs/operating.md", '"Statement"'))
GRANTED = [action for statement in POLICY["Statement"] for action in statement["Action"]]

FAILING_WITHOUT = {
    "s3:PutObject": {"probe", "upload"},
    "s3:GetObject": {"probe", "download"},
    "s3:DeleteObject": {"delete", "clean", "delete_orphans"},
    "s3:AbortMultipartUpload": {"probe", "clean"},
    "s3:ListBucket": {"delete_orphans"},
    "s3:ListBucketMultipartUploads": {"clean"},
}
"""The steps of `Life` that fail without each permission."""


@dataclass
class Life:
    """The steps of an export's life, on a store that grants some permissions; `every` grants all of them."""

    limited: ObjectStore
    every: StoreUnderTest
    access: S3Access
    claims: Claims
    sql: asyncpg.Connection
    space: Tenant

    async def dead_attempt(self) -> str:
        """The object name of an attempt whose lease has expired, and which left an object and an unfinished upload."""
        await self.sql.execute(
            """INSERT INTO export_jobs (space_id, start_date, end_date, timezone, window_from, window_to, max_attempts)
               VALUES ($1, '2024-01-01', '2024-02-01', 'UTC', '2024-01-01Z', '2024-02-01Z', 5)""",
            self.space.space_id,
        )
        claim = await self.claims.claim("tests", lease=timedelta(0), space_slots=10, alone=True)
        assert claim is not None
        await put(self.every.store, claim.object_name)
        bucket, prefix = self.every.settings["STORAGE_URL"].removeprefix("s3://").split("/")
        async with self.access.client() as client:
            begun = await client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{claim.object_name}")
        await self.claims.record_upload(claim, begun["UploadId"])
        return claim.object_name

    async def probe(self) -> bool:
        """The process becomes ready."""
        await self.limited.probe()
        return True

    async def upload(self) -> bool:
        """An attempt stores its file."""
        await put(self.limited, "uploaded")
        return True

    async def download(self) -> bool:
        """A consumer follows a link."""
        await put(self.every.store, "linked")
        link = await self.limited.link("linked", filename="x", origin="")
        return (await fetch(link.url)).status == 200

    async def delete(self) -> bool:
        """The file of an expired export is deleted."""
        await put(self.every.store, "expired")
        await self.limited.delete("expired")
        return "expired" not in await self.every.objects()

    async def clean(self) -> bool:
        """What a dead attempt left is deleted."""
        name = await self.dead_attempt()
        await Rescue(self.claims, retry_pause=timedelta(0)).run()
        await Leftovers(self.claims, self.limited, grace=timedelta(0)).clean()
        return name not in [*await self.every.objects(), *await self.every.uploads()]

    async def delete_orphans(self) -> bool:
        """A file that no row names is deleted."""
        name = f"1/1/{uuid4()}.ndjson.gz"
        await put(self.every.store, name)
        await Leftovers(self.claims, self.limited, grace=timedelta(0)).delete_orphans()
        return name not in await self.every.objects()

    async def failing(self) -> set[str]:
        """The names of the steps that the store refuses."""
        failing = set()
        for step in (self.probe, self.upload, self.download, self.delete, self.clean, self.delete_orphans):
            try:
                succeeded = await step()
            except ExportFailure:
                succeeded = False
            if not succeeded:
                failing.add(step.__name__)
        return failing


async def put(store: ObjectStore, name: str) -> None:
    """Store an object."""
    async with store.upload(name, part_size=PART, filename="x", metadata={}) as upload:
        await upload.put_part(1, [b"x"])
        await upload.complete()


async def grant(request: web.Request, forward: Forward) -> web.StreamResponse:
    """Let the store answer."""
    return await forward()


def enforce(faults: S3Faults, permissions: Collection[str]) -> None:
    """Answer 403 to every operation that these permissions do not include."""
    faults.always(ANY, respond(403, "AccessDenied"))
    for permission in permissions:
        for operation in OPERATIONS[permission]:
            faults.always(operation, grant)


@pytest.fixture
async def store(s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StoreUnderTest]:
    """The store with all permissions, for what a test prepares and checks."""
    use_credentials(monkeypatch, s3)
    async with stores.s3_store(s3, bucket) as under_test:
        yield under_test


@pytest.fixture
async def life(
    s3: S3Access,
    store: StoreUnderTest,
    faults: S3Faults,
    database_url: str,
    connection: asyncpg.Connection,
    space: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Life]:
    """The steps, on a store behind the proxy."""
    monkeypatch.setattr("service.exports.leftovers.ORPHANED_AFTER", timedelta(seconds=-2))
    bucket = store.settings["STORAGE_URL"].split("/")[2]
    place = S3Settings(bucket, "exports", endpoint_url=faults.endpoint_url, region=s3.region, addressing_style="path")
    async with S3Store.open(place) as limited, Database(database_url, application_name="tests", size=2) as database:
        yield Life(limited, store, s3, Claims(database, renewals=database), connection, space)


def test_the_policy_grants_six_permissions_on_the_objects_and_the_bucket() -> None:
    objects, bucket = POLICY["Statement"]
    assert sorted(GRANTED) == sorted(OPERATIONS)
    assert objects["Resource"] == f"{bucket['Resource']}/prefix/*"
    assert [action for action in GRANTED if action.startswith("s3:List")] == bucket["Action"]


async def test_the_policy_is_enough_for_every_step(life: Life, faults: S3Faults) -> None:
    enforce(faults, GRANTED)
    assert await life.failing() == set()


@pytest.mark.parametrize("permission", GRANTED)
async def test_each_permission_is_needed(permission: str, life: Life, faults: S3Faults) -> None:
    enforce(faults, [action for action in GRANTED if action != permission])
    assert await life.failing() == FAILING_WITHOUT[permission]


@pytest.mark.parametrize("permission", GRANTED)
async def test_the_rehearsal_names_the_permission_that_is_missing_and_no_other(
    permission: str, life: Life, faults: S3Faults
) -> None:
    enforce(faults, [action for action in GRANTED if action != permission])
    with pytest.raises(StorageRefused) as caught:
        await life.limited.rehearse()
    assert re.findall(r"s3:\w+", caught.value.detail or "") == [permission]


async def test_with_the_policy_the_rehearsal_succeeds_and_leaves_nothing(life: Life, faults: S3Faults) -> None:
    enforce(faults, GRANTED)
    assert await life.limited.rehearse() == []
    assert (await life.every.objects(), await life.every.uploads()) == ([], [])


@pytest.mark.long
async def test_with_the_policy_the_program_carries_an_export_through_its_whole_life(
    life: Life, faults: S3Faults, database_url: str, tmp_path: Path
) -> None:
    await add_contacts(life.sql, life.space.space_id, 100)
    dead = await life.dead_attempt()
    enforce(faults, GRANTED)
    settings = {"DATABASE_URL": database_url, **life.every.settings, "S3_ENDPOINT_URL": faults.endpoint_url}
    async with running(settings) as program, ExportClient(program.address, life.space.key) as client:
        export_id = await client.create(whole_range())
        assert (await client.download(await client.wait(export_id), tmp_path / "file")).rows == 100
        assert (await cancel(program.address, life.space, export_id)).status is ExportStatus.EXPIRED
        await until_row(life.sql, "SELECT 1 FROM export_jobs WHERE id = $1 AND file_deleted_at IS NOT NULL", export_id)
        await until_row(life.sql, "SELECT 1 FROM export_attempts WHERE object_name = $1 AND cleaned_at IS NOT NULL", dead)
    assert await life.every.uploads() == []
    assert dead not in await life.every.objects()


@pytest.mark.parametrize("status", [405, 501])
async def test_a_dead_attempt_is_cleaned_up_on_a_store_that_cannot_list_uploads(
    life: Life, faults: S3Faults, status: int
) -> None:
    faults.always("ListMultipartUploads", respond(status, "NotImplemented"))
    assert await life.clean()
    assert await life.sql.fetchval("SELECT bool_and(cleaned_at IS NOT NULL) FROM export_attempts")

"""The two object stores, as the program is told of them and as a test looks into them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from service.storage import ObjectStore
from service.storage.directory import DirectoryStore
from service.storage.s3 import S3Store
from tests.support.s3 import S3Access

LINK_SECRET = "a secret of the tests, long enough"


@dataclass(frozen=True)
class StoreUnderTest:
    """`settings` for the program, `store` for the test's own look at what is there."""

    kind: str
    settings: dict[str, str]
    store: ObjectStore

    async def objects(self) -> list[str]:
        """The names of all completed objects."""
        return sorted([entry.object_name async for entry in self.store.objects()])

    async def uploads(self) -> list[str]:
        """The names of all unfinished uploads."""
        return sorted([entry.object_name async for entry in self.store.unfinished_uploads()])


@asynccontextmanager
async def directory_store(path: Path) -> AsyncIterator[StoreUnderTest]:
    """A directory that exists."""
    store = DirectoryStore(path, secret=LINK_SECRET.encode(), link_lifetime=timedelta(minutes=15))
    await store.create()
    yield StoreUnderTest("directory", {"STORAGE_URL": path.as_uri(), "LINK_SECRET": LINK_SECRET}, store)


@asynccontextmanager
async def s3_store(access: S3Access, bucket: str) -> AsyncIterator[StoreUnderTest]:
    """A bucket that exists; its credentials must be in the environment of this process too."""
    settings = {
        "STORAGE_URL": f"s3://{bucket}/exports",
        "S3_ENDPOINT_URL": access.endpoint_url,
        "S3_REGION": access.region,
        "S3_ADDRESSING_STYLE": "path",
        **credentials(access),
    }
    async with S3Store.open(
        bucket=bucket, prefix="exports", endpoint_url=access.endpoint_url, region=access.region, addressing_style="path"
    ) as store:
        yield StoreUnderTest("s3", settings, store)


def credentials(access: S3Access) -> dict[str, str]:
    """What the client libraries of S3 read from the environment."""
    return {"AWS_ACCESS_KEY_ID": access.access_key, "AWS_SECRET_ACCESS_KEY": access.secret_key}

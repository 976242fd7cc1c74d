"""The two object stores: the settings that a program needs to use one, and a store object for the test itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from service.storage import ObjectStore
from service.storage.directory import DirectoryStore
from service.storage.s3 import S3Settings, S3Store
from tests.support.s3 import S3Access

LINK_SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00123456789abcdeffedcba9876543210"


async def link_secret() -> bytes:
    """Return the secret of a directory store, as the service's wiring would."""
    return LINK_SECRET.encode()


@dataclass(frozen=True)
class StoreUnderTest:
    """`settings` are the program's environment variables; `store` shows the test the same files."""

    settings: dict[str, str]
    store: ObjectStore

    async def objects(self) -> list[str]:
        """Return the names of all completed objects."""
        return sorted([entry.object_name async for entry in self.store.objects()])

    async def uploads(self) -> list[str]:
        """Return the names of all unfinished uploads."""
        return sorted([entry.object_name async for entry in self.store.unfinished_uploads()])


@asynccontextmanager
async def directory_store(path: Path) -> AsyncIterator[StoreUnderTest]:
    """Create a directory store."""
    store = DirectoryStore(path, link_secret, timedelta(minutes=15))
    await store.create()
    yield StoreUnderTest({"STORAGE_URL": path.as_uri(), "LINK_SECRET": LINK_SECRET}, store)


@asynccontextmanager
async def s3_store(access: S3Access, bucket: str) -> AsyncIterator[StoreUnderTest]:
    """Open a store in an existing bucket. Its credentials must also be in this process's environment."""
    settings = s3_settings(access, bucket, prefix="exports")
    opened = S3Settings(
        bucket, prefix="exports", endpoint_url=access.endpoint_url, region=access.region, addressing_style="path"
    )
    async with S3Store.open(opened) as store:
        yield StoreUnderTest(settings, store)


def s3_settings(access: S3Access, bucket: str, *, prefix: str) -> dict[str, str]:
    """Return the program's environment variables for a store in a bucket."""
    return {
        "STORAGE_URL": f"s3://{bucket}/{prefix}",
        "S3_ENDPOINT_URL": access.endpoint_url,
        "S3_ADDRESSING_STYLE": "path",
        "S3_REGION": access.region,
        **credentials(access),
    }


def credentials(access: S3Access) -> dict[str, str]:
    """Return the environment variables from which S3 client libraries read credentials."""
    return {"AWS_ACCESS_KEY_ID": access.access_key, "AWS_SECRET_ACCESS_KEY": access.secret_key}

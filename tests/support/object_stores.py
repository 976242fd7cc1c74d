"""Both object stores for the contract tests: opened, reachable over HTTP, with access to their contents."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from service.model import Part
from service.storage import Link, ObjectStore, Upload
from service.storage.directory import DirectoryStore
from service.storage.s3 import S3Settings, S3Store
from service.web.files import FILE_PATH, OPEN_LINK, download_file
from service.web.middleware import identify, render_errors
from tests.support.s3 import S3Access
from tests.support.stores import link_secret

PART = 5 * 1024 * 1024
"""The smallest part that S3 accepts, in bytes."""
FILENAME = "contacts-7.ndjson.gz"


class Response(NamedTuple):
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(url: str, method: str = "GET", **headers: str) -> Response:
    """Request exactly this address, without changing its encoding."""
    request = aiohttp.request(method, URL(url, encoded=True), headers=headers, auto_decompress=False)
    async with request as response:
        return Response(response.status, response.headers, await response.read())


@dataclass
class Place:
    """A store under test. `origin` is the address of the service in links of a directory store."""

    store: ObjectStore
    origin: str

    def begin(self, object_name: str) -> AbstractAsyncContextManager[Upload]:
        """Begin an upload with the smallest part size."""
        return self.store.upload(object_name, part_size=PART, filename=FILENAME, metadata={})

    async def put(self, object_name: str, *parts: bytes) -> None:
        """Store an object with these parts, each given as two pieces."""
        async with self.begin(object_name) as upload:
            pieces: list[Part] = [[part[:1], memoryview(part)[1:]] for part in parts]
            await asyncio.gather(*(upload.put_part(number, part) for number, part in enumerate(pieces, 1)))
            await upload.complete()

    async def link(self, object_name: str) -> Link:
        """Create a link as the service does."""
        return await self.store.link(object_name, filename=FILENAME, origin=self.origin)

    async def fetch(self, object_name: str) -> Response:
        """Download the object through a link."""
        return await fetch((await self.link(object_name)).url)

    async def uploads(self) -> list[str]:
        """Return the names of the unfinished uploads."""
        return [upload.object_name async for upload in self.store.unfinished_uploads()]

    async def objects(self) -> list[str]:
        """Return the names of the objects, sorted."""
        return sorted([found.object_name async for found in self.store.objects()])


def use_credentials(monkeypatch: pytest.MonkeyPatch, s3: S3Access) -> None:
    """Make the client library find these credentials and ignore all other AWS configuration of this machine."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)


@asynccontextmanager
async def s3_place(
    s3: S3Access, bucket: str, *, link_lifetime: timedelta = timedelta(minutes=15), **options: object
) -> AsyncIterator[Place]:
    """Open a store in the bucket. `options` are fields of `S3Settings`; the default prefix is `a`."""
    given: dict[str, object] = {"prefix": "a", "endpoint_url": s3.endpoint_url, "region": s3.region, **options}
    async with S3Store.open(S3Settings(bucket, **given), link_lifetime=link_lifetime) as store:  # type: ignore[arg-type]
        yield Place(store, "http://unused.invalid")


@asynccontextmanager
async def directory_place(root: Path, *, link_lifetime: timedelta = timedelta(minutes=15)) -> AsyncIterator[Place]:
    """Open a store in the directory. The service's own handler serves its links."""
    store = DirectoryStore(root, link_secret, link_lifetime)
    app = web.Application(middlewares=[identify, render_errors])
    app[OPEN_LINK] = store.open_link
    app.router.add_get(FILE_PATH, download_file)
    async with TestServer(app) as server:
        yield Place(store, str(server.make_url("/")).rstrip("/"))

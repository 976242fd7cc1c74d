"""Both object stores as the contract suite sees them: opened, reachable over HTTP, and looked into."""

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
from service.storage.s3 import S3Store
from service.web.app import FILE_PATH
from service.web.handlers import FileHandlers
from service.web.middleware import answer_errors, identify
from tests.support.s3 import S3Access

PART = 5 * 1024 * 1024
"""The smallest part that S3 accepts."""
FILENAME = "contacts-7.ndjson.gz"
SECRET = b"0123456789abcdef"
"""What the directory store signs links with."""


class Answer(NamedTuple):
    """What an HTTP client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def fetch(url: str, method: str = "GET", **headers: str) -> Answer:
    """Ask for exactly this address, as a client does that knows nothing of us."""
    request = aiohttp.request(method, URL(url, encoded=True), headers=headers, auto_decompress=False)
    async with request as response:
        return Answer(response.status, response.headers, await response.read())


@dataclass
class Place:
    """A store under test; `origin` is where this service would be reached."""

    store: ObjectStore
    origin: str

    def begin(self, object_name: str) -> AbstractAsyncContextManager[Upload]:
        """An upload in parts of the smallest size."""
        return self.store.upload(object_name, part_size=PART, filename=FILENAME, metadata={})

    async def put(self, object_name: str, *parts: bytes) -> None:
        """Store an object made of these parts, each in two pieces."""
        async with self.begin(object_name) as upload:
            pieces: list[Part] = [[part[:1], memoryview(part)[1:]] for part in parts]
            await asyncio.gather(*(upload.put_part(number, part) for number, part in enumerate(pieces, 1)))
            await upload.complete()

    async def link(self, object_name: str) -> Link:
        """A link as the service makes it."""
        return await self.store.link(object_name, filename=FILENAME, origin=self.origin)

    async def fetch(self, object_name: str) -> Answer:
        """The object, by a link."""
        return await fetch((await self.link(object_name)).url)

    async def uploads(self) -> list[str]:
        """The names of the unfinished uploads."""
        return [upload.object_name async for upload in self.store.unfinished_uploads()]

    async def objects(self) -> dict[str, int]:
        """Names and sizes of the objects."""
        return {found.object_name: found.size async for found in self.store.objects()}


def use_credentials(monkeypatch: pytest.MonkeyPatch, s3: S3Access) -> None:
    """Let the client library find these credentials, and nothing else that may be set up on this machine."""
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)


@asynccontextmanager
async def s3_place(s3: S3Access, bucket: str, **options: object) -> AsyncIterator[Place]:
    """A store in the bucket, below a prefix; `options` are those of `S3Store.open`."""
    given: dict[str, object] = {"prefix": "a", "endpoint_url": s3.endpoint_url, "region": s3.region, **options}
    async with S3Store.open(bucket=bucket, **given) as store:  # type: ignore[arg-type]  # any option
        yield Place(store, "http://unused.invalid")


@asynccontextmanager
async def directory_place(root: Path, *, link_lifetime: timedelta = timedelta(minutes=15)) -> AsyncIterator[Place]:
    """A store in the directory, whose links the service's own handler serves."""
    store = DirectoryStore(root, secret=SECRET, link_lifetime=link_lifetime)
    app = web.Application(middlewares=[identify, answer_errors])
    app.router.add_get(FILE_PATH, FileHandlers(store.open_link).download)
    async with TestServer(app) as server:
        yield Place(store, str(server.make_url("/")).rstrip("/"))

"""Follows download links as a consumer does, because only a link shows a wrong region or public endpoint.

Calls of the client library succeed where links fail: it follows the store's redirects to another region.
"""

import re
import ssl
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any

import aiohttp
import structlog
from botocore.exceptions import ClientError
from yarl import URL

from service.failures import ExportFailure, StorageRefused
from service.storage.s3.clients import BucketClient, BucketLinks, PresignedLinks
from service.storage.s3.failures import failure_from_s3_error, s3_call

_TIMEOUT = timedelta(seconds=10)
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,100})</Code>")
_REGION = re.compile(r"<Region>([A-Za-z0-9-]{1,50})</Region>")

log = structlog.get_logger()


class LinkTrial:
    """Tries the links that consumers get, or, if this process cannot reach their endpoint, the one that it calls itself."""

    def __init__(self, client: BucketClient, links: BucketLinks) -> None:
        self._client = client
        self._links = links
        self._reported = False

    async def run(self, key: str, content: bytes | None) -> None:
        """Follow a link to an object with this content; None: the object may be missing.

        Raises StorageRefused that names the fault, StorageUnavailable.
        """
        only = self._client.settings.public_endpoint_url is None
        try:
            reached = await self._follow(self._links.public, key, content)
        except StorageRefused as failure:
            if only or not await self._follow(self._links.internal, key, content):
                raise
            detail = f"{failure.detail}; a link through S3_ENDPOINT_URL works: check S3_PUBLIC_ENDPOINT_URL"
            raise StorageRefused(detail=detail) from failure
        if not reached and not self._reported:
            self._reported = True
            log.info("link_not_tried", detail="this process cannot reach the endpoint of download links")
        if not reached and not only:
            await self._follow(self._links.internal, key, content)

    async def _follow(self, links: PresignedLinks, key: str, content: bytes | None) -> bool:
        """True if the link works, False if its endpoint cannot be reached from here. Raises as `run`."""
        async with s3_call("link", _TIMEOUT):
            link = await links.link(key)
        found = await self._fetch(link.url)
        if found is None:
            return False
        status, body = found
        served = status == HTTPStatus.OK and content in (None, body)
        missing = status == HTTPStatus.NOT_FOUND and content is None and b"NoSuchKey" in body
        if not served and not missing:
            raise await self._fault(status, body.decode(errors="replace"))
        return True

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._client.ca_bundle)

    async def _fetch(self, url: str) -> tuple[int, bytes] | None:
        """The status and the body, or None if the endpoint cannot be reached from here: consumers may still reach it."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT.total_seconds())
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
                session.get(URL(url, encoded=True), ssl=self._trusted) as response,
            ):
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None

    async def _fault(self, status: int, body: str) -> ExportFailure:
        code = _CODE.search(body)
        failure = failure_from_s3_error("a download link", code[1] if code else "unexpected response", status)
        if not isinstance(failure, StorageRefused):
            return failure
        named = _REGION.search(body)
        region = named[1] if named else await self._region()
        ours = self._client.settings.region
        if region not in (None, ours):
            return StorageRefused(detail=f"{failure.detail}: S3_REGION is {ours}, but the bucket is in {region}")
        return failure

    async def _region(self) -> str | None:
        """The region of the bucket, if the store tells."""
        try:
            async with s3_call("HeadBucket", _TIMEOUT):
                return _region_in(await self._client.operations.head_bucket(Bucket=self._client.settings.bucket))
        except ExportFailure as failure:
            return _region_in(failure.__cause__.response) if isinstance(failure.__cause__, ClientError) else None


def _region_in(response: Mapping[str, Any]) -> str | None:
    region: str | None = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region")
    return region

"""One multipart upload to S3."""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from service.failures import ExportFailure, StorageUnavailable
from service.model import Part
from service.storage.part_sizes import PartSizes
from service.storage.s3 import etags
from service.storage.s3.body import PartBody
from service.storage.s3.clients import BucketClient
from service.storage.s3.failures import CORRUPTED, error_code, s3_call

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, UploadPartRequestTypeDef

log = structlog.get_logger()


class S3Upload:
    """One upload. `key` is the object's full name in the bucket."""

    def __init__(self, client: BucketClient, key: str, upload_id: str, part_size: int) -> None:
        self.upload_id = upload_id
        self.completed = False
        self.after_complete: Callable[[], Awaitable[None]] | None = None
        """Awaited after the object exists. Must not raise."""
        self._client = client
        self._key = key
        self._sizes = PartSizes(part_size)
        self._parts: dict[int, CompletedPartTypeDef] = {}
        self._md5s: dict[int, bytes] = {}
        self._etags_are_md5 = True
        self._in_flight: set[asyncio.Task[None]] = set()
        self._stopped = False

    async def put_part(self, number: int, part: Part) -> None:
        """See `Upload`."""
        size = sum(map(len, part))
        self._sizes.offset(number, size)
        if self._stopped:
            raise RuntimeError("the block of this upload has ended")
        sending = asyncio.create_task(self._put(number, part, size))
        self._in_flight.add(sending)
        sending.add_done_callback(self._in_flight.discard)
        await sending

    async def complete(self) -> None:
        """See `Upload`."""
        size = self._sizes.total()
        if self.completed:
            return
        parts = [self._parts[number] for number in sorted(self._parts)]
        try:
            async with s3_call("CompleteMultipartUpload", self._client.settings.complete_timeout):
                await self._client.completions.complete_multipart_upload(
                    Bucket=self._client.settings.bucket,
                    Key=self._key,
                    UploadId=self.upload_id,
                    MultipartUpload={"Parts": parts},
                )
        except StorageUnavailable:
            if not await self._exists(size):
                raise
        self.completed = True
        if self.after_complete is not None:
            await self.after_complete()

    async def stop(self) -> None:
        """Cancel the parts in flight: the store might keep, and bill, a part that arrives after the abort."""
        self._stopped = True
        for sending in self._in_flight:
            sending.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _put(self, number: int, part: Part, size: int) -> None:
        """Send the part, and once more if the store seems to have received other bytes."""
        checked = self._client.settings.checksums == "when_supported"
        body = await PartBody.prepare(part, signed=self._client.signs_payload, checked=checked)
        try:
            intact = await self._send(number, body)
        except StorageUnavailable as failure:
            if error_code(failure) not in CORRUPTED:
                raise
            intact = False
        if not intact and not await self._send(number, body):
            # Not chance: this store's ETags only look like MD5s.
            self._etags_are_md5 = False
            log.info("etags_are_not_md5", upload_id=self.upload_id)
        self._sizes.record(number, size)

    async def _send(self, number: int, body: PartBody) -> bool:
        """Return False if the ETag in the response contradicts the bytes."""
        body.seek(0)
        request: UploadPartRequestTypeDef = {
            "Bucket": self._client.settings.bucket,
            "Key": self._key,
            "UploadId": self.upload_id,
            "PartNumber": number,
            "Body": body,
        }
        if body.crc32:
            request["ChecksumCRC32"] = b64encode(body.crc32).decode()
        else:
            request["ContentMD5"] = b64encode(body.md5).decode()
        async with s3_call("UploadPart", self._client.settings.operation_timeout):
            response = await self._client.operations.upload_part(**request)
        stored = etags.of_part(response)
        if stored is None:
            self._etags_are_md5 = False
        self._md5s[number] = body.md5
        self._parts[number] = {"PartNumber": number, "ETag": response["ETag"]}
        if "ChecksumCRC32" in response:
            self._parts[number]["ChecksumCRC32"] = response["ChecksumCRC32"]
        return not self._etags_are_md5 or stored == body.md5.hex()

    async def _exists(self, size: int) -> bool:
        """Return whether the object exists with the parts' bytes: only the response to `complete` may be lost."""
        try:
            async with s3_call("HeadObject", self._client.settings.operation_timeout):
                head = await self._client.operations.head_object(Bucket=self._client.settings.bucket, Key=self._key)
        except ExportFailure:
            return False
        etag = etags.of_object(head) if self._etags_are_md5 else None
        expected = etags.of_parts([self._md5s[number] for number in sorted(self._md5s)])
        return head["ContentLength"] == size and etag in (None, expected)

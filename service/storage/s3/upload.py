"""One multipart upload."""

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import ExportFailure, StorageUnavailable
from service.model import Part
from service.storage.part_sizes import PartSizes
from service.storage.s3 import etags
from service.storage.s3.body import PartBody
from service.storage.s3.failures import CORRUPTED, error_code, translated

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef, UploadPartRequestTypeDef


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, the client that reaches it, and how long a call may take in seconds."""

    client: "S3Client"
    name: str
    operation_timeout: float
    complete_timeout: float
    additional_checksums: bool
    """Send CRC32 in place of Content-MD5; not every store knows it."""
    signed_payloads: bool


class S3Upload:
    """One upload; `key` is the object's full name in the bucket."""

    def __init__(self, bucket: Bucket, key: str, upload_id: str, part_size: int) -> None:
        self.upload_id = upload_id
        self.completed = False
        self.after_complete: Callable[[], Awaitable[None]] | None = None
        """Awaited once the object is there; must not raise."""
        self._bucket = bucket
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
            raise RuntimeError("the block of this upload has been left")
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
            async with translated("CompleteMultipartUpload", self._bucket.complete_timeout):
                await self._bucket.client.complete_multipart_upload(
                    Bucket=self._bucket.name, Key=self._key, UploadId=self.upload_id, MultipartUpload={"Parts": parts}
                )
        except StorageUnavailable:
            if not await self._is_there(size):
                raise
        self.completed = True
        if self.after_complete is not None:
            await self.after_complete()

    async def stop(self) -> None:
        """End the parts that are on their way: one that arrives after the abort might be kept, and paid for."""
        self._stopped = True
        for sending in self._in_flight:
            sending.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)

    async def _put(self, number: int, part: Part, size: int) -> None:
        body = await PartBody.prepare(part, signed=self._bucket.signed_payloads)
        try:
            await self._send(number, body)
        except StorageUnavailable as failure:
            if error_code(failure) not in CORRUPTED:
                raise
            await self._send(number, body)
        self._sizes.record(number, size)

    async def _send(self, number: int, body: PartBody) -> None:
        body.seek(0)
        request: UploadPartRequestTypeDef = {
            "Bucket": self._bucket.name,
            "Key": self._key,
            "UploadId": self.upload_id,
            "PartNumber": number,
            "Body": body,
        }
        if self._bucket.additional_checksums:
            request["ChecksumCRC32"] = b64encode(body.crc32).decode()
        else:
            request["ContentMD5"] = b64encode(body.md5).decode()
        async with translated("UploadPart", self._bucket.operation_timeout):
            answer = await self._bucket.client.upload_part(**request)
        etag = answer["ETag"]
        if not etags.is_md5(answer):
            self._etags_are_md5 = False
        elif etag.strip('"') != body.md5.hex():
            raise StorageUnavailable(detail="UploadPart: the store's ETag is not the MD5 of what was sent")
        self._md5s[number] = body.md5
        self._parts[number] = {"PartNumber": number, "ETag": etag}
        if "ChecksumCRC32" in answer:
            self._parts[number]["ChecksumCRC32"] = answer["ChecksumCRC32"]

    async def _is_there(self, size: int) -> bool:
        """Whether the object is there with the bytes of the parts: the answer to `complete` may have been lost."""
        try:
            async with translated("HeadObject", self._bucket.operation_timeout):
                head = await self._bucket.client.head_object(Bucket=self._bucket.name, Key=self._key)
        except ExportFailure:
            return False
        etag = head["ETag"].strip('"')
        comparable = self._etags_are_md5 and etags.is_md5(head) and etags.is_of_parts(etag)
        expected = etags.of_parts([self._md5s[number] for number in sorted(self._md5s)])
        return head["ContentLength"] == size and (not comparable or etag == expected)

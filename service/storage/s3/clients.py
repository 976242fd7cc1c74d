"""The two clients of one store: one talks to it, the other only signs links, for the address consumers reach it at."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from service.storage import Link
from service.storage.s3.body import sign_with_given_hash
from service.storage.s3.failures import translated

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

AddressingStyle = Literal["auto", "path", "virtual"]
Checksums = Literal["when_required", "when_supported"]

_OPEN_SECONDS = 30.0
"""Finding credentials may ask a metadata service; the files the client is made from are read here too."""
_CONNECT_SECONDS = 3
_CONNECTIONS = 160
"""As many slots as a process may have, two parts each, and some for everything else: no part waits for a connection."""
_RETRIES = {"mode": "standard", "total_max_attempts": 4}
"""Not `adaptive`: it would make all exports of the process slow down together."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a store; the timeouts are in seconds."""

    endpoint_url: str | None
    public_endpoint_url: str | None
    region: str
    addressing_style: AddressingStyle
    checksums: Checksums
    sign_payload: bool
    operation_timeout: float
    complete_timeout: float

    def config(self) -> AioConfig:
        """The settings both clients share. A silent connection is given up early enough for a second try."""
        return AioConfig(
            signature_version="s3v4",
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=self.operation_timeout / 2,
            max_pool_connections=_CONNECTIONS,
            retries=_RETRIES,
            s3={"addressing_style": self.addressing_style, "payload_signing_enabled": self.sign_payload},
            request_checksum_calculation=self.checksums,
            response_checksum_validation=self.checksums,
        )


class LinkSigner:
    """Signs addresses for GET, without asking the store."""

    def __init__(self, session: AioSession, client: "S3Client", lifetime: timedelta) -> None:
        self._session = session
        self._client = client
        self._lifetime = lifetime

    async def link(self, bucket: str, key: str) -> Link:
        """A fresh address; it ends with its lifetime or with temporary credentials, whichever is first."""
        credentials_end = await self._credentials_end()
        url = await self._client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=int(self._lifetime.total_seconds())
        )
        query = parse_qs(urlsplit(url).query)
        signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        expires_at = signed_at + timedelta(seconds=int(query["X-Amz-Expires"][0]))
        return Link(url, min(expires_at, credentials_end or expires_at))

    async def _credentials_end(self) -> datetime | None:
        """When the credentials stop working, rounded down; None for permanent ones.

        Read before signing: should they be renewed in between, the link outlives what is said of it, never the reverse.
        """
        credentials = await self._session.get_credentials()
        if credentials is None:
            return None
        await credentials.get_frozen_credentials()
        # botocore shows this moment nowhere else.
        ends_at: datetime | None = getattr(credentials, "_expiry_time", None)
        return ends_at and ends_at.astimezone(UTC).replace(microsecond=0)


@asynccontextmanager
async def open_clients(connection: Connection, link_lifetime: timedelta) -> AsyncIterator[tuple["S3Client", LinkSigner]]:
    """Both clients, with the credentials of the usual chain. Raises StorageRefused where they cannot be made."""
    session = AioSession()
    async with AsyncExitStack() as stack:

        async def client(endpoint_url: str | None) -> "S3Client":
            return await stack.enter_async_context(
                session.create_client(
                    "s3", region_name=connection.region, endpoint_url=endpoint_url, config=connection.config()
                )
            )

        async with translated("open", _OPEN_SECONDS):
            operations = await client(connection.endpoint_url)
            signing = await client(connection.public_endpoint_url or connection.endpoint_url)
        _be_patient_with_complete(operations, connection.complete_timeout)
        if connection.sign_payload:
            sign_with_given_hash(operations)
        yield operations, LinkSigner(session, signing, link_lifetime)


def _be_patient_with_complete(client: "S3Client", seconds: float) -> None:
    """Let a completion stay silent for that long: a store may take minutes to put thousands of parts together."""

    def set_read_timeout(params: dict[str, Any], **_: Any) -> None:
        params["context"]["read_timeout"] = seconds

    client.meta.events.register("before-call.s3.CompleteMultipartUpload", set_read_timeout)

"""The botocore clients of one bucket, and the download links that one of them signs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from service.storage import Link
from service.storage.s3.body import sign_with_given_hash
from service.storage.s3.credentials import LateCredentials, late_credentials
from service.storage.s3.failures import s3_call
from service.storage.s3.settings import S3Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_OPEN_TIMEOUT = timedelta(seconds=30)
"""Deadline of creating the clients, which reads files and may ask a metadata service for credentials."""
_CONNECT_TIMEOUT = timedelta(seconds=3)
_CONNECTIONS = 160
"""64 export slots with two parts in flight each, plus 32 for other calls: no part waits for a connection."""
_RETRIES = {"mode": "standard", "total_max_attempts": 4}
"""Not `adaptive`: it would slow down all exports of the process together."""


@dataclass(frozen=True, slots=True)
class BucketClient:
    """A bucket's settings and the two clients that call it."""

    settings: S3Settings
    operations: "S3Client"
    completions: "S3Client"
    """For CompleteMultipartUpload only: botocore sets read timeouts per client, and this one waits longer."""
    signs_payload: bool
    """Whether parts are signed with their SHA-256."""
    ca_bundle: str | None
    """File with the certificates that botocore trusts instead of the system's."""


class PresignedLinks:
    """Presigns GET addresses of one bucket. Signing is local: it sends no request to the store."""

    def __init__(self, credentials: LateCredentials, client: "S3Client", bucket: str, lifetime: timedelta) -> None:
        self._credentials = credentials
        self._client = client
        self._bucket = bucket
        self._lifetime = lifetime

    async def link(self, key: str) -> Link:
        """Create an address. It expires after the lifetime or with temporary credentials, whichever comes first."""
        # Asked before signing. If the credentials are renewed in between, the link works longer than stated, never shorter.
        credentials_end = await self._credentials.ends_at()
        url = await self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self._bucket, "Key": key}, ExpiresIn=int(self._lifetime.total_seconds())
        )
        query = parse_qs(urlsplit(url).query)
        signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        expires_at = signed_at + timedelta(seconds=int(query["X-Amz-Expires"][0]))
        return Link(url, min(expires_at, credentials_end or expires_at))


@dataclass(frozen=True, slots=True)
class BucketLinks:
    """The links to the files of a bucket: `public` for consumers, `internal` through the endpoint that the service calls."""

    public: PresignedLinks
    internal: PresignedLinks


@asynccontextmanager
async def open_clients(settings: S3Settings, link_lifetime: timedelta) -> AsyncIterator[tuple[BucketClient, BucketLinks]]:
    """Open the clients with the credentials that botocore finds, now or later.

    Raises StorageRefused if the configuration of botocore is invalid.
    """
    session = AioSession()
    session.set_config_variable("region", settings.region)  # also for clients that fetch credentials
    async with AsyncExitStack() as stack:

        async def client(endpoint_url: str | None, read_timeout: timedelta) -> "S3Client":
            return await stack.enter_async_context(
                session.create_client(
                    "s3", region_name=settings.region, endpoint_url=endpoint_url, config=_config(settings, read_timeout)
                )
            )

        async with s3_call("open", _OPEN_TIMEOUT):
            credentials = await late_credentials(session)
            # Half the deadline, so that a silent connection leaves time for a retry.
            operations = await client(settings.endpoint_url, settings.operation_timeout / 2)
            completions = await client(settings.endpoint_url, settings.complete_timeout)
            signing = await client(settings.public_endpoint_url or settings.endpoint_url, settings.operation_timeout)
        signs_payload = settings.sign_payload
        if signs_payload is None:
            signs_payload = urlsplit(operations.meta.endpoint_url).scheme == "http"
        sign_with_given_hash(operations)
        internal = PresignedLinks(credentials, operations, settings.bucket, link_lifetime)
        public = PresignedLinks(credentials, signing, settings.bucket, link_lifetime)
        ca_bundle: str | None = session.get_config_variable("ca_bundle")
        yield BucketClient(settings, operations, completions, signs_payload, ca_bundle), BucketLinks(public, internal)


def _config(settings: S3Settings, read_timeout: timedelta) -> AioConfig:
    signing = {} if settings.sign_payload is None else {"payload_signing_enabled": settings.sign_payload}
    return AioConfig(
        signature_version="s3v4",
        connect_timeout=_CONNECT_TIMEOUT.total_seconds(),
        read_timeout=read_timeout.total_seconds(),
        max_pool_connections=_CONNECTIONS,
        retries=_RETRIES,
        s3={"addressing_style": settings.addressing_style, **signing},
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
    )

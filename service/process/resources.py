"""What the process opens and closes: databases, the object store, the rate-limit windows."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.errors import Starting
from service.exports.lease import RENEWALS_PER_LEASE
from service.exports.priority import RequestPriority
from service.postgres.contact_source import ContactSource
from service.postgres.contacts import ContactReads
from service.postgres.kept_sessions import KeptSessions
from service.postgres.pool import CALL_TIMEOUT, Database
from service.postgres.shared_secrets import SharedSecrets
from service.process.database_addresses import contacts_address, direct_address, main_address
from service.settings import Settings
from service.storage import ObjectStore
from service.storage.directory import DirectoryStore
from service.web.rate_limit_windows import RateLimitWindows, open_windows

_POOL_SIZE = 8

Secret = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that is opened once per process."""

    database: Database
    renewals: Database
    """One connection that nothing else can keep renewals waiting for."""
    contacts: ContactSource
    contact_reads: ContactReads
    """Reads contacts for the API; a slow contacts database keeps nothing else waiting."""
    store: ObjectStore
    local_store: DirectoryStore | None
    """`store` itself if it is a directory, whose files this process serves."""
    secrets: SharedSecrets
    rate_limit_windows: RateLimitWindows
    priority: RequestPriority


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """Open everything the settings name. Nothing is asked of the databases or the store yet.

    Raises SettingsError, StorageRefused, RateLimitStorageUnusable.
    """
    async with (
        open_database(settings) as database,
        _open_renewals(settings) as renewals,
        ContactReads(
            contacts_address(settings),
            settings.contacts_pool_size,
            timedelta(seconds=settings.contacts_timeout_seconds),
        ) as contact_reads,
        KeptSessions() as kept_sessions,
    ):
        secrets = SharedSecrets(database)
        local_store = _local_store(settings, _link_secret(settings, secrets))
        async with _open_s3(settings) if local_store is None else nullcontext(local_store) as store:
            yield Resources(
                database,
                renewals,
                ContactSource(
                    contacts_address(settings),
                    timedelta(seconds=settings.fetch_timeout_seconds),
                    timedelta(seconds=settings.complete_until_slack),
                    kept_sessions,
                ),
                contact_reads,
                store,
                local_store,
                secrets,
                open_windows(settings.rate_limit_storage_url.get_secret_value(), database),
                RequestPriority(),
            )


def open_database(settings: Settings) -> Database:
    """The pool of the main database, for everything but renewals and snapshots."""
    return Database(
        main_address(settings),
        application_name="contact-exports",
        size=_POOL_SIZE,
        pooler=settings.database_direct_url is not None,
    )


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[ObjectStore]:
    """The object store that STORAGE_URL names, for commands: links of a directory raise Starting."""
    local_store = _local_store(settings, _no_secret)
    async with _open_s3(settings) if local_store is None else nullcontext(local_store) as store:
        yield store


def _local_store(settings: Settings, link_secret: Secret) -> DirectoryStore | None:
    url = urlsplit(settings.files_url)
    if url.scheme != "file":
        return None
    lifetime = timedelta(seconds=settings.link_seconds)
    return DirectoryStore(Path(unquote(url.path)), link_secret, lifetime)


@asynccontextmanager
async def _open_s3(settings: Settings) -> AsyncIterator[ObjectStore]:
    from service.storage.s3 import S3Settings, S3Store  # noqa: PLC0415 - it takes 0.25 s and 20 MiB

    url = urlsplit(settings.files_url)
    bucket = S3Settings(
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        addressing_style=settings.s3_addressing_style,
        checksums=settings.s3_checksum,
        sign_payload=settings.s3_sign_payload,
        encryption=settings.s3_sse,
        kms_key_id=settings.s3_kms_key_id,
    )
    async with S3Store.open(bucket, link_lifetime=timedelta(seconds=settings.link_seconds)) as store:
        yield store


def _open_renewals(settings: Settings) -> Database:
    lease = timedelta(seconds=settings.lease_seconds)
    timeout = min(CALL_TIMEOUT, lease / RENEWALS_PER_LEASE)  # so that one slow call loses no claim
    return Database(direct_address(settings), application_name="contact-exports renewals", size=1, timeout=timeout)


def _link_secret(settings: Settings, secrets: SharedSecrets) -> Secret:
    """LINK_SECRET, or the secret that the first migration created for all replicas."""

    async def configured_or_shared() -> bytes:
        if settings.link_secret is not None:
            return settings.link_secret.get_secret_value().encode()
        return await secrets.get("links")

    return configured_or_shared


async def _no_secret() -> bytes:
    raise Starting

"""What the program stands on, opened as the settings say: the main database, its connection for renewals, the store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.errors import DatabaseUnavailable
from service.postgres.access import AccessTables
from service.postgres.pool import CALL_TIMEOUT, Database
from service.settings import Settings
from service.storage import ObjectStore
from service.storage.directory import DirectoryStore

_POOL_SIZE = 8


def open_database(settings: Settings) -> Database:
    """The pool that everything but renewals and snapshots uses."""
    return Database(
        settings.dsn,
        application_name="contact-exports",
        size=_POOL_SIZE,
        pooler=settings.database_direct_url is not None,
    )


def open_renewals(settings: Settings) -> Database:
    """One connection that nothing else can keep renewals waiting for."""
    timeout = min(CALL_TIMEOUT, settings.lease_seconds / 4)  # so that one slow call loses no claim
    return Database(settings.direct_dsn, application_name="contact-exports renewals", size=1, timeout=timeout)


@asynccontextmanager
async def open_store(settings: Settings, database: Database | None = None) -> AsyncIterator[ObjectStore]:
    """The object store that STORAGE_URL names. Links of a directory need LINK_SECRET or the database."""
    lifetime = timedelta(seconds=settings.link_seconds)
    url = urlsplit(settings.files_url)
    if url.scheme == "file":

        async def link_secret() -> bytes:
            if settings.link_secret is not None:
                return settings.link_secret.get_secret_value().encode()
            if database is None:
                raise DatabaseUnavailable
            return await AccessTables(database).shared_secret("links")

        yield DirectoryStore(Path(unquote(url.path)), link_secret, lifetime)
        return
    # Not imported for a directory: it takes 0.25 s and 20 MiB.
    from service.storage.s3 import S3Settings, S3Store

    bucket = S3Settings(
        bucket=url.netloc,
        prefix=url.path.strip("/"),
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        addressing_style=settings.s3_addressing_style,
        checksums=settings.s3_checksum,
        sign_payload=settings.s3_sign_payload,
    )
    async with S3Store.open(bucket, link_lifetime=lifetime) as store:
        yield store

"""Credentials that the client library may find later than at startup, or find changed."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import structlog
from aiobotocore.credentials import AioCredentialResolver, AioCredentials
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, MetadataRetrievalError, NoCredentialsError

_FILES = frozenset({"shared-credentials-file", "config-file"})
"""botocore's names of the sources that it reads once. Others renew themselves, or cannot change while the process runs."""
_REREAD_AFTER = timedelta(minutes=1)
_ABSENT_FOR = timedelta(seconds=1)
"""How long a failed search is remembered: one may wait 2 s for a metadata service, and many calls may need it."""

log = structlog.get_logger()


class LateCredentials(AioCredentials):
    """Looks for credentials at each use until there are some. Those from a file are read again once a minute."""

    def __init__(self, resolver: AioCredentialResolver) -> None:
        super().__init__(access_key="", secret_key="", method="late")
        self._resolver = resolver
        self._found: AioCredentials | None = None
        self._searched_at = 0.0
        self._one = asyncio.Lock()

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]  # a coroutine in aiobotocore
        """The credentials to sign with. Raises NoCredentialsError, or another error of botocore."""
        return await (await self._current()).get_frozen_credentials()

    async def ends_at(self) -> datetime | None:
        """When the credentials expire, rounded down to seconds; None for permanent credentials. Raises as above."""
        found = await self._current()
        await found.get_frozen_credentials()
        # No public attribute of botocore has this time. tests/unit/test_storage_botocore.py fails if it is renamed.
        ends_at: datetime | None = getattr(found, "_expiry_time", None)
        return ends_at and ends_at.astimezone(UTC).replace(microsecond=0)

    async def _current(self) -> AioCredentials:
        async with self._one:
            age = time.monotonic() - self._searched_at
            if self._found is None:
                if self._searched_at and age < _ABSENT_FOR.total_seconds():
                    raise NoCredentialsError
                self._found = await self._search()
            elif self._found.method in _FILES and age > _REREAD_AFTER.total_seconds():
                try:
                    self._found = await self._search()
                except BotoCoreError as error:  # the file is being replaced, or is broken
                    log.warning("credentials_not_read_again", error=type(error).__name__)
            return self._found

    async def _search(self) -> AioCredentials:
        try:
            found: AioCredentials | None = await self._resolver.load_credentials()
        finally:
            self._searched_at = time.monotonic()
        if found is None:
            raise NoCredentialsError
        return found


class LateResolver:
    """Gives the clients of a session `LateCredentials` in place of what botocore finds at the moment of their creation."""

    def __init__(self, session: AioSession) -> None:
        self.credentials = LateCredentials(session.get_component("credential_provider"))

    async def load_credentials(self) -> LateCredentials:
        """Called by the session."""
        return self.credentials


async def late_credentials(session: AioSession) -> LateCredentials:
    """Make the session's clients use late credentials. Raises the error of botocore if its configuration is invalid."""
    resolver = LateResolver(session)
    session.register_component("credential_provider", resolver)
    try:
        await resolver.credentials.get_frozen_credentials()
    except (NoCredentialsError, CredentialRetrievalError, MetadataRetrievalError) as error:
        log.warning("no_credentials_yet", error=type(error).__name__)
    return resolver.credentials

"""Who calls, and what they may do: Spaces, API keys, authentication and scopes."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import timedelta

from service.errors import ScopeMissing, SubscriptionInactive, Unauthenticated
from service.model import Caller, Scope, timezone
from service.postgres.access import AccessTables

_KEY = re.compile(r"ce_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
"""`ce_`, the public part that identifies the row, and 256 random bits."""


class Access:
    """The use cases of Spaces and API keys. Every method raises DatabaseUnavailable."""

    def __init__(self, tables: AccessTables) -> None:
        self._tables = tables

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller that an Authorization header proves. Raises Unauthenticated, always with the same message."""
        scheme, _, key = (authorization or "").partition(" ")
        match = _KEY.fullmatch(key.strip())
        if scheme.lower() != "bearer" or match is None:
            raise Unauthenticated
        credential = await self._tables.live_credential(match[1])
        if credential is None or not hmac.compare_digest(credential.key_sha256, _digest(match[0])):
            raise Unauthenticated
        return credential.caller

    async def create_space(self, name: str, zone: str) -> int:
        """Create a Space; returns its id. Raises UnknownTimezone."""
        timezone(zone)
        return await self._tables.add_space(name, zone)

    async def create_key(self, space_id: int, scopes: Iterable[Scope], lifetime: timedelta | None = None) -> str:
        """Create a key of a Space; only its hash is stored. Raises SpaceNotFound."""
        key_id = secrets.token_hex(8)
        key = f"ce_{key_id}_{secrets.token_urlsafe(32)}"
        await self._tables.add_key(key_id, space_id, _digest(key), sorted(set(scopes)), lifetime)
        return key

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke the key with this public part; False if there is none."""
        return await self._tables.revoke_key(key_id)


def authorise(caller: Caller, scope: Scope) -> None:
    """Raises ScopeMissing or SubscriptionInactive."""
    if scope not in caller.scopes:
        raise ScopeMissing(f"The API key does not have the scope {scope}.")
    if not caller.subscription_active:
        raise SubscriptionInactive


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()

"""Who calls, and what they may do: Spaces, API keys, authentication and scopes."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from service.errors import ScopeMissing, SubscriptionInactive, Unauthenticated
from service.model import Caller, Scope, timezone
from service.postgres.access import AccessTables, Credential

_KEY = re.compile(r"ce_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
"""`ce_`, the public part that identifies the row, and 256 random bits."""


@dataclass(frozen=True, slots=True)
class PresentedKey:
    """A key that a request carries, by the id of its row and its hash; whether it is valid is not known yet."""

    key_id: str
    sha256: bytes

    def proves(self, credential: Credential | None) -> Caller:
        """The caller of the stored credential with this id. Raises Unauthenticated if there is none, or its hash differs."""
        if credential is None or not hmac.compare_digest(credential.key_sha256, self.sha256):
            raise Unauthenticated
        return credential.caller


def presented_key(authorization: str | None) -> PresentedKey:
    """The key in an Authorization header. Raises Unauthenticated, with the same message as an unknown key."""
    scheme, _, key = (authorization or "").partition(" ")
    match = _KEY.fullmatch(key.strip())
    if scheme.lower() != "bearer" or match is None:
        raise Unauthenticated
    return PresentedKey(match[1], _digest(match[0]))


class Access:
    """The use cases of Spaces and API keys. Every method raises DatabaseUnavailable."""

    def __init__(self, tables: AccessTables) -> None:
        self._tables = tables

    async def authenticate(self, key: PresentedKey) -> Caller:
        """The caller that a key proves. Raises Unauthenticated."""
        return key.proves(await self._tables.live_credential(key.key_id))

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

"""Spaces and API keys in Postgres."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import asyncpg

from service.errors import SpaceNotFound
from service.model import Caller, Scope
from service.postgres.pool import Database


@dataclass(frozen=True, slots=True)
class Credential:
    """A stored key that is neither revoked nor expired: the hash to compare with, and the caller that the key proves."""

    key_sha256: bytes
    caller: Caller

    @classmethod
    def of_row(cls, row: asyncpg.Record) -> Self:
        """The credential in a row with the columns of the statement `live_api_key`."""
        scopes = frozenset(Scope(scope) for scope in row["scopes"])
        return cls(row["key_sha256"], Caller(row["space_id"], row["timezone"], row["subscription_active"], scopes))


@dataclass(frozen=True, slots=True)
class Space:
    """A tenant as listed for operators."""

    space_id: int
    name: str
    timezone: str
    subscription_active: bool


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as listed for operators; the key itself is not stored."""

    key_id: str
    space_id: int
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class AccessTables:
    """Every method raises DatabaseUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def live_credential(self, key_id: str) -> Credential | None:
        """The credential with this key id; None if it is unknown, revoked or expired."""
        row = await self._database.read_row("live_api_key", key_id)
        return None if row is None else Credential.of_row(row)

    async def add_space(self, name: str, timezone: str) -> int:
        """Store a Space and return its id."""
        row = await self._database.fetch_row("insert_space", name, timezone)
        assert row is not None
        return int(row["id"])

    async def spaces(self) -> list[Space]:
        """All Spaces, by id."""
        return [_space(row) for row in await self._database.fetch("list_spaces")]

    async def spaces_from(self, after: int, *, limit: int) -> list[Space]:
        """A page of Spaces: those with ids above `after`, by id."""
        return [_space(row) for row in await self._database.fetch("spaces_from", after, limit)]

    async def add_key(
        self, key_id: str, space_id: int, key_sha256: bytes, scopes: list[str], lifetime: timedelta | None
    ) -> None:
        """Store a key's hash. Raises SpaceNotFound."""
        if await self._database.fetch_row("insert_api_key", key_id, space_id, key_sha256, scopes, lifetime) is None:
            raise SpaceNotFound

    async def set_subscription(self, space_id: int, *, active: bool) -> None:
        """Suspend or reactivate a Space. Raises SpaceNotFound."""
        if await self._database.fetch_row("set_subscription", space_id, active) is None:
            raise SpaceNotFound

    async def keys(self, space_id: int | None = None) -> list[KeyRow]:
        """All keys, or those of one Space, newest first."""
        return [
            KeyRow(
                row["key_id"], row["space_id"], tuple(row["scopes"]), row["created_at"], row["expires_at"], row["revoked_at"]
            )
            for row in await self._database.fetch("list_api_keys", space_id)
        ]

    async def revoke_key(self, key_id: str) -> bool:
        """Revoke a key; False if there is none with this id."""
        return await self._database.fetch_row("revoke_api_key", key_id) is not None


def _space(row: asyncpg.Record) -> Space:
    return Space(row["id"], row["name"], row["timezone"], row["subscription_active"])

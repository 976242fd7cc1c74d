"""The Spaces of a run: most keep still, so that their files can be compared; one is written to all the time."""

from dataclasses import dataclass

import asyncpg

from tests.support.contacts import FIRST, Tenant, add_contacts, tenant

STILL = (1200, 300, 0)
"""Contacts of the Spaces that exports are asked of; the last has none."""
QUIET = 60
"""Contacts of the Space that asks for one export, when everybody else waits."""


@dataclass(frozen=True)
class Spaces:
    """Tenants with keys."""

    still: list[Tenant]
    live: Tenant
    quiet: Tenant

    @property
    def asking(self) -> list[Tenant]:
        """Those that ask for exports all the time; the live one is asked twice as often."""
        return [*self.still, self.live, self.live]


async def make_spaces(connection: asyncpg.Connection, url: str) -> Spaces:
    """New Spaces; the contacts of the live one are for its writers to make."""
    still = [await tenant(url) for _ in STILL]
    for space, count in zip(still, STILL, strict=True):
        await add_contacts(connection, space.space_id, count, first=FIRST)
    live, quiet = await tenant(url), await tenant(url)
    await add_contacts(connection, quiet.space_id, QUIET, first=FIRST)
    return Spaces(still, live, quiet)

"""The Spaces of a run: most do not change, so that their files can be compared; one is written to all the time."""

from dataclasses import dataclass

import asyncpg

from tests.support.contacts import FIRST, Tenant, add_contacts, tenant

STILL = (1200, 300, 0)
"""Contacts of each Space that does not change; the last has none."""
QUIET = 60
"""Contacts of the Space that requests one export after the faults, while all others wait."""


@dataclass(frozen=True)
class Spaces:
    """Spaces with a key each."""

    still: list[Tenant]
    live: Tenant
    quiet: Tenant

    @property
    def asking(self) -> list[Tenant]:
        """The Spaces that request exports all the time; the live one is listed twice and gets twice as many."""
        return [*self.still, self.live, self.live]


async def make_spaces(connection: asyncpg.Connection, url: str) -> Spaces:
    """Create the Spaces. The writers create the contacts of the live one."""
    still = [await tenant(url) for _ in STILL]
    for space, count in zip(still, STILL, strict=True):
        await add_contacts(connection, space.space_id, count, first=FIRST)
    live, quiet = await tenant(url), await tenant(url)
    await add_contacts(connection, quiet.space_id, QUIET, first=FIRST)
    return Spaces(still, live, quiet)

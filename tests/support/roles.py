"""Roles with few rights."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.jobs import connect


@asynccontextmanager
async def role(url: str, grants: str = "") -> AsyncIterator[str]:
    """The URL of a new role that can read the contacts and has these grants; {} is replaced by its name."""
    name, password = f"reader_{secrets.token_hex(6)}", secrets.token_hex(12)
    parts = urlsplit(url)
    async with connect(url) as owner:
        await owner.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD '{password}'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};"
            + grants.format(name)
        )
        try:
            yield parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()
        finally:
            await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")

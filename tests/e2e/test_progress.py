"""The progress of a running export, as its consumer sees it."""

import asyncio

import aiohttp
import asyncpg
import pytest

from tests.support.calls import EXPORTS, create
from tests.support.contacts import FIRST, Tenant, add_contacts
from tests.support.program import running
from tests.support.stores import StoreUnderTest

_ROWS = 12_000


@pytest.mark.parametrize("store", ["directory"], indirect=True)
async def test_progress_never_goes_backwards_and_never_exceeds_its_estimate(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    await connection.execute("ALTER TABLE contacts SET (autovacuum_enabled = false)")
    await add_contacts(connection, space.space_id, _ROWS)
    # The planner's statistics say that most contacts were created outside the range, so its estimate is far too low.
    await connection.execute("UPDATE contacts SET created_at = '2001-01-01Z' WHERE id > 100; ANALYZE contacts")
    await connection.execute("UPDATE contacts SET created_at = $1 WHERE id > 100", FIRST)
    slowly = {"FAILPOINTS": "batch_read:delay(0.3)", "ALLOW_FAILPOINTS": "1", "LEASE_SECONDS": "2"}
    seen: list[tuple[int, int]] = []
    async with (
        running({"DATABASE_URL": database_url, **store.settings, **slowly}) as program,
        aiohttp.ClientSession() as http,
    ):
        export_id = await create(program, space)
        while True:
            async with http.get(f"{program.address}{EXPORTS}/{export_id}", headers=space.headers) as response:
                body = await response.json()
            if body["status"] not in ("queued", "processing"):
                break
            if body["status"] == "processing" and body["progress"]["rows_estimated"] is not None:
                seen.append((body["progress"]["rows"], body["progress"]["rows_estimated"]))
            await asyncio.sleep(0.05)
    assert (body["status"], body["row_count"]) == ("completed", _ROWS)
    assert all(rows <= estimated for rows, estimated in seen), seen
    assert seen == sorted(seen)
    assert [rows for rows, _ in seen] == sorted(rows for rows, _ in seen)
    assert [estimated for _, estimated in seen] == sorted(estimated for _, estimated in seen)
    assert seen[0][1] < seen[-1][1], "the estimate was too low and was raised"

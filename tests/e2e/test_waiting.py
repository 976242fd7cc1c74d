"""`Prefer: wait=N` and the download by redirect, with the real program and real curl."""

import gzip
import json
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.support.calls import EXPORTS
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, expected_lines, lines_of
from tests.support.program import running
from tests.support.shell import run
from tests.support.stores import StoreUnderTest

pytestmark = pytest.mark.long


async def test_curl_gets_from_nothing_to_a_file_with_one_key_and_without_polling(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest, tmp_path: Path
) -> None:
    await add_contacts(connection, space.space_id, 1500)
    key = ("-H", f"Authorization: Bearer {space.key}")
    async with running({"DATABASE_URL": database_url, **store.settings}) as program:
        url = f"{program.address}{EXPORTS}"
        json_type = ("-H", "Content-Type: application/json")
        created = await run("curl", "-sS", "--fail-with-body", *key, *json_type, "-d", json.dumps(WHOLE_RANGE), url)
        export_id = json.loads(created.output)["export_id"]
        waited = await run("curl", "-sS", "--fail-with-body", *key, "-H", "Prefer: wait=30", f"{url}/{export_id}")
        assert json.loads(waited.output)["status"] == "completed"
        file = tmp_path / "file"
        download = await run("curl", "-sS", "--fail", "-L", *key, "-o", str(file), f"{url}/{export_id}/download")
        assert download.code == 0, download.errors
        assert lines_of(file) == await expected_lines(connection, space.space_id)
        # An interrupted download is continued.
        half = tmp_path / "half"
        half.write_bytes(file.read_bytes()[:1000])
        again = await run("curl", "-sS", "--fail", "-L", "-C", "-", *key, "-o", str(half), f"{url}/{export_id}/download")
        assert again.code == 0, again.errors
        assert half.read_bytes() == file.read_bytes()
        await run("curl", "-sS", "-X", "DELETE", *key, f"{url}/{export_id}")
        gone = await run("curl", "-sS", "--fail", "-L", *key, "-o", "-", f"{url}/{export_id}/download")
        assert (gone.code, gone.output) == (22, "")
        assert "410" in gone.errors


async def test_a_creation_that_waits_gives_the_link_in_one_call(
    database_url: str, connection: asyncpg.Connection, space: Tenant, store: StoreUnderTest
) -> None:
    await add_contacts(connection, space.space_id, 15)
    async with running({"DATABASE_URL": database_url, **store.settings}) as program, aiohttp.ClientSession() as http:
        headers = {**space.headers, "Prefer": "wait=30"}
        async with http.post(f"{program.address}{EXPORTS}", json=WHOLE_RANGE, headers=headers) as response:
            body = await response.json()
            assert (response.status, body["status"]) == (202, "completed")
            assert response.headers["Preference-Applied"] == "wait=30"
        file = await run("curl", "-sS", "--fail", body["download_url"], "-o", "/dev/null", "-w", "%{size_download}")
        assert int(file.output) == body["file_size"] > len(gzip.compress(b""))


@pytest.mark.parametrize("store", ["directory"], indirect=True)
async def test_a_creation_that_waits_longer_than_its_seconds_is_still_queued(
    database_url: str, space: Tenant, store: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": database_url, **store.settings, "EXPORT_SLOTS": "0"}
    async with running(settings) as program, aiohttp.ClientSession() as http:
        headers = {**space.headers, "Prefer": "wait=1"}
        async with http.post(f"{program.address}{EXPORTS}", json=WHOLE_RANGE, headers=headers) as response:
            assert (response.status, (await response.json())["status"]) == (202, "queued")

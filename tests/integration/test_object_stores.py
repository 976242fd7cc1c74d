"""The contract of `ObjectStore`, tested with a directory on disk and with a real S3 server."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest

from service.failures import StorageRefused, StorageUnavailable
from tests.support.object_stores import FILENAME, PART, Place, directory_place, fetch, s3_place, use_credentials
from tests.support.s3 import S3Access

NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"

OpenPlace = Callable[..., AbstractAsyncContextManager[Place]]


@pytest.fixture
def open_directory(tmp_path: Path) -> OpenPlace:
    return partial(directory_place, tmp_path / "files")


@pytest.fixture
def open_s3(s3: S3Access, bucket: str, monkeypatch: pytest.MonkeyPatch) -> OpenPlace:
    use_credentials(monkeypatch, s3)
    return partial(s3_place, s3, bucket)


@pytest.fixture(params=["directory", "s3"])
def open_place(request: pytest.FixtureRequest) -> OpenPlace:
    """A function that opens the store under test; two calls act as two processes."""
    opener: OpenPlace = request.getfixturevalue(f"open_{request.param}")
    return opener


@pytest.fixture
async def place(open_place: OpenPlace) -> AsyncIterator[Place]:
    async with open_place() as place:
        await place.store.create()
        yield place


# Files ---------------------------------------------------------------------------------------------------------------


async def test_parts_stored_concurrently_and_out_of_order_become_one_object(place: Place) -> None:
    first, second, last = os.urandom(PART), os.urandom(PART), os.urandom(12345)
    async with place.begin(NAME) as upload:
        await asyncio.gather(upload.put_part(3, [last]), upload.put_part(1, [first]))
        await upload.put_part(2, [second])
        assert await place.objects() == []
        await upload.complete()
    assert await place.objects() == [NAME]
    assert await place.uploads() == []
    assert (await place.fetch(NAME)).body == first + second + last


async def test_an_object_may_be_empty(place: Place) -> None:
    await place.put(NAME, b"")
    assert await place.objects() == [NAME]
    response = await place.fetch(NAME)
    assert (response.status, response.body) == (200, b"")


async def test_storing_a_part_again_replaces_it(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"the first try, which was longer"])
        await upload.put_part(1, [b"the second try"])
        await upload.complete()
    assert (await place.fetch(NAME)).body == b"the second try"


async def test_completing_twice_changes_nothing(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"once"])
        await upload.complete()
        await upload.complete()
    assert (await place.fetch(NAME)).body == b"once"


async def test_an_upload_with_a_missing_part_cannot_be_completed(place: Place) -> None:
    async with place.begin(NAME) as upload:
        with pytest.raises(ValueError, match="without a gap"):
            await upload.complete()
        await upload.put_part(2, [b"x"])
        with pytest.raises(ValueError, match="without a gap"):
            await upload.complete()
    assert await place.objects() == []
    assert await place.uploads() == []


async def test_an_object_has_its_creation_time(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    await place.put(NAME, b"x")
    (found,) = [each async for each in place.store.objects()]
    assert before <= found.modified_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_deleting_an_object_twice_succeeds(place: Place) -> None:
    await place.put(NAME, b"x")
    link = await place.link(NAME)
    await place.store.delete(NAME)
    await place.store.delete(NAME)
    assert await place.objects() == []
    assert (await fetch(link.url)).status == 404


async def test_a_name_outside_the_store_is_refused(place: Place) -> None:
    for name in ("", "/etc/passwd", "a/../b", "../b", "a//b", "a/", "./a", "a\nb", "a\0b"):
        with pytest.raises(ValueError, match="object name"):
            await place.put(name, b"x")
        for call in (place.store.delete, partial(place.store.abort_upload, upload_id="x"), place.link):
            with pytest.raises(ValueError, match="object name"):
                await call(name)
    assert await place.uploads() == []


# Uploads that are not completed --------------------------------------------------------------------------------------


async def test_leaving_the_block_without_completing_aborts_the_upload(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"x"])
        assert await place.uploads() == [NAME]
    assert await place.uploads() == []
    assert await place.objects() == []


async def test_an_error_in_the_block_aborts_the_upload_and_is_raised(place: Place) -> None:
    async def fail() -> None:
        async with place.begin(NAME) as upload:
            await upload.put_part(1, [b"x"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await place.uploads() == []


async def test_an_upload_has_its_start_time(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    async with place.begin(NAME) as upload:
        (found,) = [each async for each in place.store.unfinished_uploads()]
    assert (found.object_name, found.upload_id) == (NAME, upload.upload_id)
    assert before <= found.started_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_another_process_can_abort_an_upload_twice(place: Place, open_place: OpenPlace) -> None:
    async with open_place() as other, place.begin(NAME) as upload:
        await upload.put_part(1, [b"x" * PART])
        await other.store.abort_upload(NAME, upload.upload_id)
        await other.store.abort_upload(NAME, upload.upload_id)
        assert await place.uploads() == []
        with pytest.raises(StorageUnavailable):
            await upload.put_part(2, [b"x"])
        with pytest.raises(StorageUnavailable):
            await upload.complete()
    assert await place.objects() == []


async def test_aborting_a_completed_upload_succeeds_and_keeps_the_object(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"x"])
        await upload.complete()
    await place.store.abort_upload(NAME, upload.upload_id)
    assert await place.objects() == [NAME]


async def test_cancelling_an_upload_at_any_moment_leaves_no_unfinished_upload(place: Place) -> None:
    data = os.urandom(PART)

    async def upload() -> None:
        async with place.begin(NAME) as upload:
            await asyncio.gather(upload.put_part(1, [data]), upload.put_part(2, [b"x"]))
            await upload.complete()

    started = time.perf_counter()
    await upload()
    duration = time.perf_counter() - started
    await place.store.delete(NAME)
    cancelled = 0
    for step in range(20):
        running = asyncio.create_task(upload())
        await asyncio.wait({running}, timeout=duration * step / 20)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        cancelled += running.cancelled()
        assert await place.uploads() == []
        # A completion that was in flight at the cancellation may have succeeded. The object is then complete, a leftover.
        assert await place.objects() in ([], [NAME])
        await place.store.delete(NAME)
    assert cancelled > 0


# Links ---------------------------------------------------------------------------------------------------------------


async def test_a_link_serves_the_file_with_the_headers_of_the_contract(place: Place) -> None:
    await place.put(NAME, b"some bytes")
    before = datetime.now(UTC)
    link = await place.link(NAME)
    assert link.expires_at.tzinfo is UTC
    assert link.expires_at.microsecond == 0
    assert timedelta(minutes=15, seconds=-1) < link.expires_at - before <= timedelta(minutes=15, seconds=1)
    response = await fetch(link.url)
    assert (response.status, response.body) == (200, b"some bytes")
    assert response.headers["Content-Type"] == "application/gzip"
    assert response.headers["Content-Disposition"] == f'attachment; filename="{FILENAME}"'
    assert "Content-Encoding" not in response.headers


async def test_a_link_serves_ranges_of_the_file(place: Place) -> None:
    await place.put(NAME, b"0123456789")
    url = (await place.link(NAME)).url
    part = await fetch(url, Range="bytes=2-4")
    assert (part.status, part.body) == (206, b"234")
    assert (await fetch(url, Range="bytes=20-")).status == 416


async def test_a_link_works_until_its_expiry_and_not_longer(open_place: OpenPlace) -> None:
    async with open_place(link_lifetime=timedelta(seconds=2)) as place:
        await place.store.create()
        await place.put(NAME, b"x")
        link = await place.link(NAME)
        worked = 0
        while (response := await fetch(link.url)).status == 200:
            worked += 1
            await asyncio.sleep(0.05)
            assert datetime.now(UTC) < link.expires_at + timedelta(seconds=5), "the link does not expire"
        assert response.status == 403
        assert worked > 0
        assert datetime.now(UTC) >= link.expires_at


async def test_a_link_with_any_changed_parameter_is_refused(place: Place) -> None:
    other = NAME.replace("0d9a", "0d9b")
    await place.put(NAME, b"x")
    await place.put(other, b"y")
    url = (await place.link(NAME)).url
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    forged = {"another object": url.replace(NAME, other)}
    for name, value in query.items():
        later = str(int(value) + 3600) if value.isdigit() else None
        changed = later or value[:-1] + ("0" if value[-1] != "0" else "1")
        forged[f"another {name}"] = parts._replace(query=urlencode({**query, name: changed}, quote_via=quote)).geturl()
        left = {key: kept for key, kept in query.items() if key != name}
        forged[f"no {name}"] = parts._replace(query=urlencode(left, quote_via=quote)).geturl()
    assert (await fetch(url)).status == 200
    # The S3 server of the tests answers 400 where it finds a parameter malformed.
    responses = {what: (await fetch(each)).status for what, each in forged.items()}
    assert {what: status for what, status in responses.items() if status not in (400, 403)} == {}
    assert responses["another object"] == 403
    assert all(status == 403 for what, status in responses.items() if what.lower().endswith(("signature", "expires")))


# Probe and create ----------------------------------------------------------------------------------------------------------


async def test_a_probe_leaves_no_object_and_no_upload(place: Place) -> None:
    await place.store.probe()
    assert await place.uploads() == []
    assert await place.objects() == []


async def test_creating_an_existing_store_changes_nothing(place: Place) -> None:
    await place.put(NAME, b"x")
    await place.store.create()
    assert await place.objects() == [NAME]


async def test_the_error_of_a_missing_store_names_the_command_that_creates_it(
    request: pytest.FixtureRequest, open_place: OpenPlace, s3: S3Access
) -> None:
    missing = open_place() if "directory" in request.node.name else s3_place(s3, "contact-exports-test-missing")
    async with missing as place:
        with pytest.raises(StorageRefused) as caught:
            await place.store.probe()
        assert "does not exist; `contact-exports storage init` creates it" in (caught.value.detail or "")
        for call in (place.uploads, place.objects, partial(place.store.delete, NAME), partial(place.put, NAME, b"x")):
            with pytest.raises(StorageRefused):
                await call()

"""What every object store promises, asked of both: a directory on disk and a real S3 server."""

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

from service.errors import StorageRefused, StorageUnavailable
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
    """Opens the store under test; twice for two processes."""
    opener: OpenPlace = request.getfixturevalue(f"open_{request.param}")
    return opener


@pytest.fixture
async def place(open_place: OpenPlace) -> AsyncIterator[Place]:
    async with open_place() as place:
        await place.store.create()
        yield place


# Files ---------------------------------------------------------------------------------------------------------------


async def test_parts_stored_out_of_order_and_at_once_become_one_object_with_their_bytes(place: Place) -> None:
    first, second, last = os.urandom(PART), os.urandom(PART), os.urandom(12345)
    async with place.begin(NAME) as upload:
        await asyncio.gather(upload.put_part(3, [last]), upload.put_part(1, [first]))
        await upload.put_part(2, [second])
        assert await place.objects() == {}
        await upload.complete()
    assert await place.objects() == {NAME: 2 * PART + 12345}
    assert await place.uploads() == []
    assert (await place.fetch(NAME)).body == first + second + last


async def test_an_object_may_be_empty(place: Place) -> None:
    await place.put(NAME, b"")
    assert await place.objects() == {NAME: 0}
    answer = await place.fetch(NAME)
    assert (answer.status, answer.body) == (200, b"")


async def test_a_part_that_is_stored_again_replaces_the_first(place: Place) -> None:
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


async def test_an_upload_with_a_missing_part_is_not_completed(place: Place) -> None:
    async with place.begin(NAME) as upload:
        with pytest.raises(ValueError, match="without a gap"):
            await upload.complete()
        await upload.put_part(2, [b"x"])
        with pytest.raises(ValueError, match="without a gap"):
            await upload.complete()
    assert await place.objects() == {}
    assert await place.uploads() == []


async def test_an_object_says_when_it_was_made(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    await place.put(NAME, b"x")
    (found,) = [each async for each in place.store.objects()]
    assert before <= found.modified_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_deleting_removes_the_object_and_deleting_again_is_a_success(place: Place) -> None:
    await place.put(NAME, b"x")
    link = await place.link(NAME)
    await place.store.delete(NAME)
    await place.store.delete(NAME)
    assert await place.objects() == {}
    assert (await fetch(link.url)).status == 404


async def test_a_name_that_is_no_path_below_the_store_is_refused(place: Place) -> None:
    for name in ("", "/etc/passwd", "a/../b", "../b", "a//b", "a/", "./a", "a\nb", "a\0b"):
        with pytest.raises(ValueError, match="object name"):
            await place.put(name, b"x")
        for call in (place.store.delete, partial(place.store.abort_upload, upload_id="x"), place.link):
            with pytest.raises(ValueError, match="object name"):
                await call(name)
    assert await place.uploads() == []


# Uploads that are not completed --------------------------------------------------------------------------------------


async def test_an_upload_that_is_left_without_completing_it_is_aborted(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"x"])
        assert await place.uploads() == [NAME]
    assert await place.uploads() == []
    assert await place.objects() == {}


async def test_an_upload_in_which_something_fails_is_aborted_and_the_error_goes_on(place: Place) -> None:
    async def fail() -> None:
        async with place.begin(NAME) as upload:
            await upload.put_part(1, [b"x"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await place.uploads() == []


async def test_an_upload_says_when_it_was_begun(place: Place) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    async with place.begin(NAME) as upload:
        (found,) = [each async for each in place.store.unfinished_uploads()]
    assert (found.object_name, found.upload_id) == (NAME, upload.upload_id)
    assert before <= found.started_at <= datetime.now(UTC) + timedelta(seconds=2)


async def test_another_process_can_abort_an_upload_and_again(place: Place, open_place: OpenPlace) -> None:
    async with open_place() as other, place.begin(NAME) as upload:
        await upload.put_part(1, [b"x" * PART])
        await other.store.abort_upload(NAME, upload.upload_id)
        await other.store.abort_upload(NAME, upload.upload_id)
        assert await place.uploads() == []
        with pytest.raises(StorageUnavailable):
            await upload.put_part(2, [b"x"])
        with pytest.raises(StorageUnavailable):
            await upload.complete()
    assert await place.objects() == {}


async def test_aborting_an_upload_that_has_become_an_object_is_a_success_and_leaves_the_object(place: Place) -> None:
    async with place.begin(NAME) as upload:
        await upload.put_part(1, [b"x"])
        await upload.complete()
    await place.store.abort_upload(NAME, upload.upload_id)
    assert await place.objects() == {NAME: 1}


async def test_whenever_an_upload_is_cancelled_nothing_unfinished_stays(place: Place) -> None:
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
        # A completion that was under way when it was cancelled may have succeeded: then whole, and for the sweep.
        assert await place.objects() in ({}, {NAME: PART + 1})
        await place.store.delete(NAME)
    assert cancelled > 0


# Links ---------------------------------------------------------------------------------------------------------------


async def test_a_link_gives_the_file_with_the_headers_of_the_contract(place: Place) -> None:
    await place.put(NAME, b"some bytes")
    before = datetime.now(UTC)
    link = await place.link(NAME)
    assert link.expires_at.tzinfo is UTC
    assert link.expires_at.microsecond == 0
    assert timedelta(minutes=15, seconds=-1) < link.expires_at - before <= timedelta(minutes=15, seconds=1)
    answer = await fetch(link.url)
    assert (answer.status, answer.body) == (200, b"some bytes")
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{FILENAME}"'
    assert "Content-Encoding" not in answer.headers


async def test_a_link_gives_ranges_of_the_file(place: Place) -> None:
    await place.put(NAME, b"0123456789")
    url = (await place.link(NAME)).url
    part = await fetch(url, Range="bytes=2-4")
    assert (part.status, part.body) == (206, b"234")
    assert (await fetch(url, Range="bytes=20-")).status == 416


async def test_a_link_stops_working_but_not_before_it_says(open_place: OpenPlace) -> None:
    async with open_place(link_lifetime=timedelta(seconds=2)) as place:
        await place.store.create()
        await place.put(NAME, b"x")
        link = await place.link(NAME)
        worked = 0
        while (answer := await fetch(link.url)).status == 200:
            worked += 1
            await asyncio.sleep(0.05)
            assert datetime.now(UTC) < link.expires_at + timedelta(seconds=5), "the link does not expire"
        assert answer.status == 403
        assert worked > 0
        assert datetime.now(UTC) >= link.expires_at


async def test_a_link_with_anything_changed_is_refused(place: Place) -> None:
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
    # The S3 server in the tests finds some of these malformed, and says so by 400.
    answers = {what: (await fetch(each)).status for what, each in forged.items()}
    assert {what: status for what, status in answers.items() if status not in (400, 403)} == {}
    assert answers["another object"] == 403
    assert all(status == 403 for what, status in answers.items() if what.lower().endswith(("signature", "expires")))


# Setting up ----------------------------------------------------------------------------------------------------------


async def test_probing_a_store_that_can_be_written_leaves_nothing(place: Place) -> None:
    await place.store.probe()
    assert await place.uploads() == []
    assert await place.objects() == {}


async def test_creating_a_store_that_is_there_changes_nothing(place: Place) -> None:
    await place.put(NAME, b"x")
    await place.store.create()
    assert await place.objects() == {NAME: 1}


async def test_a_store_that_is_missing_says_so_and_how_to_create_it(
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

"""Behaviour specific to the directory store, tested on real files."""

import concurrent.futures.thread  # noqa: F401 - the first thread imports it, which the user NOBODY cannot
import os
import resource
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from service.errors import DatabaseUnavailable, FileNotFound
from service.failures import StorageFull, StorageRefused, StorageUnavailable
from service.storage.directory import DirectoryStore
from service.storage.directory.links import FileLinkSigner
from tests.support.object_stores import PART, Place, directory_place, fetch
from tests.support.stores import link_secret

NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"
NOBODY = 65534


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with directory_place(tmp_path / "files") as place:
        await place.store.create()
        yield place


@contextmanager
def ordinary_user() -> Iterator[Path]:
    """Yield an empty directory and run the block as its owner, who is not root: root ignores permissions."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if os.geteuid() != 0:
            yield root
            return
        os.chown(root, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield root
        finally:
            os.seteuid(0)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit this process's files to `size` bytes: simulates a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Links ---------------------------------------------------------------------------------------------------------------


async def test_a_link_serves_head_requests(place: Place) -> None:
    await place.put(NAME, b"some bytes")
    response = await fetch((await place.link(NAME)).url, "HEAD")
    assert (response.status, response.body) == (200, b"")
    assert response.headers["Content-Length"] == "10"
    assert response.headers["Content-Type"] == "application/gzip"


@pytest.mark.parametrize("ranges", ["bytes=0-1,3-4", "bytes=0-0, -1", "bytes=x", "bytes=-", "lines=1-2", "bytes=4-2,1-"])
async def test_several_ranges_and_unknown_ones_get_the_whole_file(place: Place, ranges: str) -> None:
    await place.put(NAME, b"0123456789")
    url = (await place.link(NAME)).url
    response = await fetch(url, Range=ranges)
    assert (response.status, response.body) == (200, b"0123456789")
    assert response.headers["Content-Type"] == "application/gzip"
    assert (await fetch(url, "HEAD", Range=ranges)).headers["Content-Length"] == "10"


async def test_one_range_is_served(place: Place) -> None:
    await place.put(NAME, b"0123456789")
    url = (await place.link(NAME)).url
    for given, expected in (("bytes=0-0", b"0"), ("bytes=7-", b"789"), ("bytes=-2", b"89"), ("Bytes=8-99", b"89")):
        response = await fetch(url, Range=given)
        assert (response.status, response.body) == (206, expected)


async def test_a_link_to_a_deleted_or_unknown_file_is_404(place: Place) -> None:
    await place.put(NAME, b"x")
    link = await place.link(NAME)
    await place.store.delete(NAME)
    assert (await fetch(link.url)).status == 404
    assert (await fetch((await place.link("other")).url, "HEAD")).status == 404


async def test_a_link_made_with_another_secret_is_refused(place: Place, tmp_path: Path) -> None:
    await place.put(NAME, b"x")

    async def another_secret() -> bytes:
        return b"another secret"

    other = DirectoryStore(tmp_path / "files", another_secret, timedelta(minutes=15))
    assert (await fetch((await place.link(NAME)).url)).status == 200
    assert (await fetch((await other.link(NAME, filename="x.gz", origin=place.origin)).url)).status == 403


async def test_replicas_that_share_a_secret_accept_each_others_links(place: Place, tmp_path: Path) -> None:
    await place.put(NAME, b"x")
    async with directory_place(tmp_path / "files") as replica:
        assert (await fetch((await place.link(NAME)).url.replace(place.origin, replica.origin))).body == b"x"


async def test_links_raise_the_error_of_the_secret(tmp_path: Path) -> None:
    async def unreachable() -> bytes:
        raise DatabaseUnavailable

    store = DirectoryStore(tmp_path, unreachable, timedelta(minutes=15))
    with pytest.raises(DatabaseUnavailable):
        await store.link(NAME, filename="x.gz", origin="http://localhost")
    with pytest.raises(DatabaseUnavailable):
        await store.open_link(NAME, {"expires": "1", "filename": "x.gz", "signature": "0"})


async def test_no_name_escapes_from_the_store(place: Place, tmp_path: Path) -> None:
    (tmp_path / "secret.object").write_text("not to be served")
    store = place.store
    assert isinstance(store, DirectoryStore)
    signer = FileLinkSigner(link_secret, timedelta(minutes=15))
    for name in ("../secret", "../../secret", "/../secret", "..%2f..%2fsecret", "%2e%2e/secret"):
        url = (await signer.link(name, "x.gz", place.origin)).url
        assert (await fetch(url)).status != 200
        with pytest.raises((ValueError, FileNotFound)):
            await store.open_link(name, dict(parse_qsl(urlsplit(url).query)))


# Files on the disk ---------------------------------------------------------------------------------------------------


async def test_files_are_private_and_none_ends_in_gz(place: Place, tmp_path: Path) -> None:
    await place.put("a.gz", b"x")
    await place.put("a", b"another object, not the compressed form of the first")
    async with place.begin("b.gz"):
        files = [path for path in (tmp_path / "files").rglob("*") if path.is_file()]
        assert len(files) == 3
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        assert {path.parent.stat().st_mode & 0o777 for path in files} == {0o700}
        objects = [path for path in files if path.parent.name == "objects"]
        assert not [path for path in objects if path.name.endswith(".gz")]
    assert (await place.fetch("a")).body.startswith(b"another")


async def test_an_object_is_never_replaced(place: Place) -> None:
    await place.put(NAME, b"the first")
    with pytest.raises(StorageRefused, match="EEXIST"):
        await place.put(NAME, b"the second")
    assert (await place.fetch(NAME)).body == b"the first"
    assert await place.uploads() == []


async def test_of_two_uploads_with_one_name_the_first_completed_wins(place: Place) -> None:
    async with place.begin(NAME) as first, place.begin(NAME) as second:
        await first.put_part(1, [b"the first"])
        await second.put_part(1, [b"the second"])
        await second.complete()
        with pytest.raises(StorageRefused):
            await first.complete()
    assert (await place.fetch(NAME)).body == b"the second"


async def test_foreign_files_are_not_listed(place: Place, tmp_path: Path) -> None:
    for folder in ("uploads", "objects"):
        (tmp_path / "files" / folder / "lost+found").mkdir()
        (tmp_path / "files" / folder / ".nfs0001").touch()
    assert await place.uploads() == []
    assert await place.objects() == []


async def test_aborting_an_upload_id_of_another_store_does_nothing(place: Place) -> None:
    async with place.begin(NAME):
        await place.store.abort_upload(NAME, "VXBsb2FkIElEIGZvciA2aWWpbmcncyBteS1tb3ZpZS5tMnRzIHVwbG9hZA")
        await place.store.abort_upload(NAME, "../objects/x")
        assert await place.uploads() == [NAME]


async def test_a_name_too_long_for_the_file_system_is_refused(place: Place) -> None:
    with pytest.raises(StorageRefused, match="ENAMETOOLONG"):
        await place.put("n" * 300, b"x")


# Disk errors ------------------------------------------------------------------------------------------------------


async def test_a_full_disk_fails_the_upload_and_leaves_no_file(place: Place) -> None:
    with largest_file(PART + 1000), pytest.raises(StorageFull, match="write part: EFBIG"):
        await place.put(NAME, b"x" * PART, b"y" * PART)
    assert await place.uploads() == []
    assert await place.objects() == []


async def test_a_directory_that_is_not_writable_is_reported() -> None:
    with ordinary_user() as root:
        store = DirectoryStore(root / "files", link_secret, timedelta(minutes=15))
        await store.create()
        (root / "files" / "uploads").chmod(0o500)
        with pytest.raises(StorageRefused, match="begin upload: EACCES"):
            await store.probe()
        (root / "files" / "uploads").chmod(0o700)
        (root / "files" / "objects").chmod(0o500)
        with pytest.raises(StorageRefused, match="complete: EACCES"):
            await store.probe()
        assert [upload async for upload in store.unfinished_uploads()] == []


async def test_a_directory_that_cannot_be_created_is_reported() -> None:
    with ordinary_user() as root:
        root.chmod(0o500)
        store = DirectoryStore(root / "files", link_secret, timedelta(minutes=15))
        with pytest.raises(StorageRefused, match="create: EACCES"):
            await store.create()


async def test_a_file_in_place_of_the_directory_is_reported(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("not a directory")
    store = DirectoryStore(tmp_path / "files", link_secret, timedelta(minutes=15))
    for call in (store.probe, store.create):
        with pytest.raises(StorageRefused, match=r"ENOTDIR|EEXIST"):
            await call()


async def test_an_unmounted_disk_is_not_treated_as_an_empty_store(place: Place, tmp_path: Path) -> None:
    await place.put(NAME, b"x")
    link = await place.link(NAME)
    (tmp_path / "files").rename(tmp_path / "elsewhere")
    (tmp_path / "files").mkdir()
    assert (await fetch(link.url)).status == 503
    with pytest.raises(StorageRefused):
        await place.objects()
    with pytest.raises(StorageRefused):
        await place.store.delete(NAME)
    with pytest.raises(StorageRefused):
        await place.store.abort_upload(NAME, "20240115T000000Z-00000000000000000000000000000000")


async def test_an_upload_whose_directory_disappears_can_be_retried(place: Place, tmp_path: Path) -> None:
    async with place.begin(NAME) as upload:
        (tmp_path / "files").rename(tmp_path / "elsewhere")
        with pytest.raises(StorageUnavailable):
            await upload.put_part(1, [b"x"])
        (tmp_path / "elsewhere").rename(tmp_path / "files")


async def test_an_empty_directory_is_prepared_and_no_other(tmp_path: Path) -> None:
    for name, content in (("empty", None), ("foreign", "file"), ("missing", None)):
        root = tmp_path / name
        if name != "missing":
            root.mkdir()
        if content is not None:
            (root / content).touch()
        store = DirectoryStore(root, link_secret, timedelta(minutes=15))
        await store.prepare_empty()
        if name == "empty":
            await store.probe()
        else:
            with pytest.raises(StorageRefused):
                await store.probe()

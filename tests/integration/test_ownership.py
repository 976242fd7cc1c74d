"""The marker that names the owner of a store, with a directory and with a real S3 server."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from service.embedded.postgres import EmbeddedPostgres, find_binaries
from service.errors import StoreOwnedElsewhere
from service.exports import ownership as module
from service.exports.ownership import Ownership
from service.failures import StorageFull, StorageRefused
from service.postgres.database_identity import DatabaseIdentity, database_identity
from service.postgres.pool import Database
from service.storage.directory import DirectoryStore
from tests.e2e.conftest import store
from tests.support.jobs import connect
from tests.support.roles import role
from tests.support.shell import shell
from tests.support.stores import StoreUnderTest, link_secret
from tests.support.waiting import until

__all__ = ["store"]

OURS = DatabaseIdentity("ab" * 32, "system 1", 16384)
COPY = DatabaseIdentity("ab" * 32, "system 2", 16384)


class Cleanup:
    """A cleanup that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self) -> None:
        """Run."""
        self.runs += 1


@pytest.fixture
def owner(store: StoreUnderTest) -> Callable[..., Ownership]:
    """A function that makes the ownership of a process with this database; no result is fresh enough to be used again."""

    def make(identity: DatabaseIdentity = OURS, fresh: float = 0) -> Ownership:
        async def read() -> DatabaseIdentity:
            return identity

        return Ownership(store.store, read, fresh=timedelta(seconds=fresh))

    return make


async def test_replicas_that_start_at_once_agree(owner: Callable[..., Ownership], store: StoreUnderTest) -> None:
    replicas = [owner() for _ in range(8)]
    await asyncio.gather(*(replica.check() for replica in replicas))
    await asyncio.gather(*(replica.check() for replica in replicas))
    assert not any(replica.lost for replica in replicas)
    assert await store.objects() == [], "the marker is no file of an export"
    with pytest.raises(StoreOwnedElsewhere):
        await owner(COPY).check()


async def test_of_two_databases_that_start_at_once_at_most_one_cleans_up(owner: Callable[..., Ownership]) -> None:
    services = [owner(OURS), owner(COPY)]
    await asyncio.gather(*(service.watch() for service in services))
    cleanups = [Cleanup(), Cleanup()]
    for _ in range(2):
        guarded = [service.guarded(cleanup) for service, cleanup in zip(services, cleanups, strict=True)]
        await asyncio.gather(*(each() for each in guarded))
    assert sorted(cleanup.runs for cleanup in cleanups) == [0, 2]


async def test_no_cleanup_relies_on_a_marker_that_was_just_written(owner: Callable[..., Ownership]) -> None:
    service, cleanup = owner(fresh=60), Cleanup()
    await service.guarded(cleanup)()
    assert cleanup.runs == 0
    await service.guarded(cleanup)()
    assert cleanup.runs == 1


async def test_a_service_that_lost_its_store_cleans_up_nothing_until_it_has_it_back(
    owner: Callable[..., Ownership],
) -> None:
    ours, cleanup, changes = owner(), Cleanup(), list[str]()
    ours.on_lost, ours.on_regained = lambda: changes.append("lost"), lambda: changes.append("regained")
    await ours.check()
    assert await owner(COPY).take() is True
    assert await owner(COPY).take() is False
    for _ in range(2):
        await ours.guarded(cleanup)()
        with pytest.raises(StoreOwnedElsewhere):
            await ours.check()
    assert (cleanup.runs, changes) == (0, ["lost"])
    assert await owner().take() is True
    await ours.guarded(cleanup)()
    assert (cleanup.runs, changes) == (1, ["lost", "regained"])


async def test_a_recent_result_is_used_again(owner: Callable[..., Ownership]) -> None:
    ours, cleanup = owner(fresh=60), Cleanup()
    await ours.check()
    await ours.check()
    await owner(COPY).take()
    await ours.guarded(cleanup)()
    assert cleanup.runs == 1


async def test_an_old_marker_is_written_again_before_a_lifecycle_rule_deletes_it(
    owner: Callable[..., Ownership], store: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = owner()
    await ours.check()
    first = await store.store.read_marker()
    assert first is not None
    assert b"contact-exports storage adopt" in first.content
    monkeypatch.setattr(module, "_REWRITE_AFTER", timedelta(seconds=-5))

    async def newer() -> bool:
        await ours.check()
        again = await store.store.read_marker()
        return again is not None and again.content == first.content and again.modified_at > first.modified_at

    await until(newer)


async def test_a_marker_that_cannot_be_renewed_does_not_prevent_cleanups(
    owner: Callable[..., Ownership], store: StoreUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, cleanup = owner(), Cleanup()
    await ours.check()

    async def full(content: bytes) -> None:
        raise StorageFull(detail="write marker: ENOSPC")

    monkeypatch.setattr(module, "_REWRITE_AFTER", timedelta(seconds=-5))
    monkeypatch.setattr(store.store, "write_marker", full)
    await ours.guarded(cleanup)()
    assert cleanup.runs == 1


@pytest.mark.parametrize("content", [b"", b"\xff", b"<html>Sign in</html>", b"[1]", b'{"database": "x"}'])
async def test_what_is_no_marker_is_neither_ours_nor_of_another_database(
    owner: Callable[..., Ownership], store: StoreUnderTest, content: bytes
) -> None:
    ours, cleanup = owner(), Cleanup()
    await ours.check()
    await store.store.write_marker(content)
    with pytest.raises(StorageRefused, match="storage adopt"):
        await ours.guarded(cleanup)()
    assert (cleanup.runs, ours.lost) == (0, False)
    assert await ours.take() is True
    await ours.guarded(cleanup)()
    assert cleanup.runs == 1


async def test_nothing_is_cleaned_up_while_the_store_does_not_say_whose_it_is(tmp_path: Path) -> None:
    async def read() -> DatabaseIdentity:
        return OURS

    missing = DirectoryStore(tmp_path / "missing", link_secret, timedelta(minutes=1))
    cleanup = Cleanup()
    with pytest.raises(StorageRefused, match="does not exist"):
        await Ownership(missing, read, fresh=timedelta(0)).guarded(cleanup)()
    assert cleanup.runs == 0


# The identity of a database ------------------------------------------------------------------------------------------


async def identity(url: str) -> DatabaseIdentity:
    """The identity of this database."""
    async with Database(url, application_name="tests", size=1) as database:
        return await database_identity(database)


async def test_a_copy_on_the_same_server_and_a_dump_on_another_one_are_other_databases(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    original = await identity(database_url)
    programs = f"PATH={find_binaries()}:$PATH; cd {tmp_path}\n"
    await shell(f"{programs} pg_dump --format=custom --file=dump '{database_url}'", {})
    restored = f"{programs} pg_restore --no-owner --exit-on-error --dbname='{{}}' dump"
    await shell(restored.format(empty_database_url), {})
    here = await identity(empty_database_url)
    with EmbeddedPostgres(tmp_path / "postgres", parameters={"fsync": "off"}) as another:
        await shell(restored.format(another.dsn()), {})
        there = await identity(another.dsn())
    assert original.id == here.id == there.id
    assert (original.server, original.oid) != (here.server, here.oid)
    assert original.server == here.server != there.server


async def test_a_role_without_special_rights_can_read_the_identity(database_url: str) -> None:
    original = await identity(database_url)
    assert original.server.startswith("system ")
    async with role(database_url, "SELECT") as reader:
        assert await identity(reader) == original


async def test_without_the_right_to_identify_the_server_a_restored_copy_still_differs(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    programs = f"PATH={find_binaries()}:$PATH; cd {tmp_path}\n"
    await shell(f"{programs} pg_dump --format=custom --file=dump '{database_url}'", {})
    await shell(f"{programs} pg_restore --no-owner --exit-on-error --dbname='{empty_database_url}' dump", {})
    found = []
    for url in (database_url, empty_database_url):
        async with connect(url) as sql:
            await sql.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        async with role(url, "SELECT") as reader:
            found.append(await identity(reader))
    assert all(each.server.startswith("table ") for each in found)
    assert found[0].server != found[1].server

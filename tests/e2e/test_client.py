"""The client `service.client` against the real service."""

import gzip
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import asyncpg
import pytest

from service.client import (
    ExportClient,
    ExportRequest,
    ExportStatus,
    Extra,
    NoFile,
    Refused,
    TargetError,
    Unauthorised,
    WrongFile,
)
from service.model import StoredFile
from tests.support.contacts import expected_lines, lines_of, whole_range
from tests.support.deployment import CONTACTS, Deployment, deployment


@pytest.fixture(scope="module")
def service(postgres_server: str, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running service with contacts."""
    limits = {"RATE_LIMIT_OTHER": "1000/minute", "RATE_LIMIT_CONTACTS": "1000/minute"}
    with deployment(postgres_server, template_database, tmp_path_factory.mktemp("files"), **limits) as running:
        yield running


@pytest.fixture
async def client(service: Deployment) -> AsyncIterator[ExportClient]:
    """A client of the Space with contacts."""
    async with ExportClient(service.program.address, service.space.key) as opened:
        yield opened


def names(directory: Path) -> list[str]:
    """The names in a directory, hidden ones too."""
    return sorted(path.name for path in directory.iterdir())


async def test_an_export_from_its_creation_to_the_file(service: Deployment, client: ExportClient, tmp_path: Path) -> None:
    states = [state async for state in client.statuses(await client.create(whole_range(Extra.EMAILS)), wait=1)]
    export = states[-1]
    assert {state.status for state in states[:-1]} <= {ExportStatus.QUEUED, ExportStatus.PROCESSING}
    assert export.status is ExportStatus.COMPLETED
    assert export.file is not None
    assert (export.file.row_count, export.timezone) == (CONTACTS, "Europe/Berlin")
    (tmp_path / "file").write_text("of yesterday")
    file = await client.download(export, tmp_path / "file")
    assert (file.rows, file.size, file.sha256) == (CONTACTS, export.file.size, export.file.sha256)
    connection = await asyncpg.connect(service.database_url)
    assert lines_of(file.path) == await expected_lines(connection, service.space.space_id, emails=True)
    await connection.close()


async def test_one_idempotency_key_creates_one_export(client: ExportClient) -> None:
    ids = {await client.create(whole_range(), idempotency_key="one") for _ in range(3)}
    assert len(ids) == 1
    assert ids.isdisjoint({await client.create(whole_range()), await client.create(whole_range())})


async def test_a_list_is_read_to_its_end_and_an_item_can_be_downloaded(client: ExportClient, tmp_path: Path) -> None:
    done = [await client.wait(await client.create(whole_range())) for _ in range(3)]
    listed = [export async for export in client.list(status=ExportStatus.COMPLETED)]
    assert [export.export_id for export in listed][:3] == [export.export_id for export in reversed(done)]
    assert listed[0].download_url is None
    assert (await client.download(listed[0], tmp_path / "file")).rows == CONTACTS
    cancelled = await client.cancel(done[0].export_id)
    assert cancelled.status is ExportStatus.EXPIRED
    with pytest.raises(NoFile, match="is expired"):
        await client.download(cancelled, tmp_path / "file")
    with pytest.raises(NoFile, match="is expired"):
        await client.download(done[0], tmp_path / "file")


async def test_contacts_are_read_page_by_page(service: Deployment, client: ExportClient) -> None:
    found = [contact async for contact in client.contacts(whole_range(Extra.COMET_TOKENS), per_page=400)]
    connection = await asyncpg.connect(service.database_url)
    wanted = await expected_lines(connection, service.space.space_id, tokens=True)
    await connection.close()
    assert found == wanted[::-1]


async def test_errors_have_the_status_and_the_message_of_the_service(service: Deployment, client: ExportClient) -> None:
    with pytest.raises(Refused, match="status 422") as invalid:
        await client.create(ExportRequest(datetime(2024, 1, 2), datetime(2024, 1, 1)))
    assert invalid.value.fields == {"end_date": ["end_date must be after start_date."]}
    with pytest.raises(Refused, match="status 404: Export not found"):
        await client.status(987654321)
    async with ExportClient(service.program.address, "wrong") as stranger:
        with pytest.raises(Unauthorised, match="status 401"):
            await stranger.wait(1)


@pytest.mark.parametrize("wrong", [{"row_count": 1}, {"sha256": "0" * 64}, {"size": 100}, {"size": 10_000_000}])
async def test_a_file_that_differs_from_its_status_does_not_replace_another(
    client: ExportClient, tmp_path: Path, wrong: dict[str, int | str]
) -> None:
    export = await client.wait(await client.create(whole_range()))
    assert export.file is not None
    target = tmp_path / "file"
    target.write_text("of yesterday")
    claimed = {"row_count": export.file.row_count, "size": export.file.size, "sha256": export.file.sha256, **wrong}
    with pytest.raises(WrongFile):
        await client.download(replace(export, file=StoredFile(**claimed)), target)  # type: ignore[arg-type] # each is one of both
    assert target.read_text() == "of yesterday"
    assert names(tmp_path) == ["file"]


async def test_a_target_in_no_directory_is_an_error(client: ExportClient, tmp_path: Path) -> None:
    export = await client.wait(await client.create(whole_range()))
    with pytest.raises(TargetError, match="does not exist"):
        await client.download(export, tmp_path / "none" / "file")


async def test_an_empty_file_is_complete(service: Deployment, tmp_path: Path) -> None:
    async with ExportClient(service.program.address, service.other.key) as client:
        file = await client.download(await client.wait(await client.create(whole_range())), tmp_path / "file")
    assert gzip.decompress(file.path.read_bytes()) == b""

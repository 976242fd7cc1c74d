"""Programs that nobody of this project wrote retrieve a whole Space exactly: all records, no others, each value."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from yarl import URL

from tests.foreign.exported import Exported, assert_same, exported, filled_database, output_of, parsed
from tests.support import docs, postgres, stores
from tests.support import s3 as s3_support
from tests.support.contacts import WHOLE_RANGE
from tests.support.object_stores import use_credentials
from tests.support.s3 import S3Access

CONSUMERS = Path(sys.prefix) / "consumers"
"""The environment of consumers whose requirements conflict with those of the service; `./run foreign` makes it."""
CONNECTOR = Path(__file__).with_name("airbyte.yaml")
CATALOG = {
    "streams": [
        {
            "stream": {"name": "contacts", "json_schema": {}, "supported_sync_modes": ["full_refresh"]},
            "sync_mode": "full_refresh",
            "destination_sync_mode": "overwrite",
        }
    ]
}
READERS = {
    # The first line of a block of docs/consuming.md, and the records of its variable `contacts`, with None for null.
    "import pandas": "contacts.astype(object).where(contacts.notna(), None).to_dict('records')",
    "import polars": "contacts.iter_rows(named=True)",
    "import pyarrow": "contacts.to_pylist()",
    "import duckdb": "(dict(zip(contacts.columns, row)) for row in contacts.fetchall())",
}
RECORDS = "records"
FILE = "contacts.ndjson.gz"
STORES = ("directory", "s3")
LOAD_HTTPFS = """
import duckdb, pathlib, duckdb_extension_httpfs
(extension,) = pathlib.Path(duckdb_extension_httpfs.__file__).parent.glob("extensions/*/httpfs.duckdb_extension")
duckdb.sql(f"LOAD '{extension}'")
"""
pytestmark = [pytest.mark.foreign, pytest.mark.timeout(1200), pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True)
class Exports:
    """The records of a Space, and its export in each of the two stores."""

    records: list[dict[str, Any]]
    directory: Exported
    s3: Exported

    def of(self, store: str) -> Exported:
        """The export in the store of this name."""
        return {"directory": self.directory, "s3": self.s3}[store]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exports(
    postgres_server: str, template_database: str, s3: S3Access, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Exports]:
    """Two running services with copies of one database, one for each store."""
    files = tmp_path_factory.mktemp("exports") / "files"
    async with AsyncExitStack() as stack:
        use_credentials(stack.enter_context(pytest.MonkeyPatch.context()), s3)
        bucket = await stack.enter_async_context(s3_support.bucket(s3))
        database, space, records = await stack.enter_async_context(filled_database(postgres_server, template_database))
        running = []
        for store in (stores.directory_store(files), stores.s3_store(s3, bucket)):
            under_test = await stack.enter_async_context(store)
            url = await stack.enter_async_context(postgres.database(postgres_server, database))
            running.append(await stack.enter_async_context(exported(url, space, under_test.settings)))
        yield Exports(records, *running)


def reader(beginning: str) -> str:
    """The block of the page that begins with this line, followed by code that writes its records to the file RECORDS."""
    (block,) = [text for _, text in docs.blocks("python", "docs/consuming.md") if text.startswith(f"{beginning}\n")]
    write = f"for record in {READERS[beginning]}:\n    print(json.dumps(record), file=output)\n"
    return f"{block}\nimport json\n\noutput = open({RECORDS!r}, 'w')\n{write}"


async def read_by(python: str | Path, text: str, directory: Path) -> list[dict[str, Any]]:
    """The records that this program of a reader writes. It may print anything: DuckDB prints its progress."""
    await output_of(directory, python, "-c", text)
    return parsed((directory / RECORDS).read_bytes())


def reader_of(link: str, beginning: str) -> str:
    """The same with a link in place of the name of the file."""
    text = reader(beginning)
    assert text.count(FILE) == 1
    return text.replace(FILE, link)


@pytest.mark.parametrize("beginning", READERS)
async def test_the_block_of_the_page_reads_the_file(exports: Exports, tmp_path: Path, beginning: str) -> None:
    async with aiohttp.request("GET", URL(exports.directory.link, encoded=True)) as response:
        (tmp_path / FILE).write_bytes(await response.read())
    assert_same(await read_by(sys.executable, reader(beginning), tmp_path), exports.records)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("beginning", ["import pandas", "import polars"])
async def test_the_reader_reads_the_link(exports: Exports, tmp_path: Path, beginning: str, store: str) -> None:
    text = reader_of(exports.of(store).link, beginning)
    assert_same(await read_by(sys.executable, text, tmp_path), exports.records)


@pytest.mark.parametrize("store", STORES)
async def test_duckdb_reads_the_link_with_its_extension_httpfs(exports: Exports, tmp_path: Path, store: str) -> None:
    text = LOAD_HTTPFS + reader_of(exports.of(store).link, "import duckdb")
    assert_same(await read_by(CONSUMERS / "bin" / "python", text, tmp_path), exports.records)


@pytest.mark.parametrize("store", STORES)
async def test_an_asynchronous_stream_of_airbyte_retrieves_the_space(exports: Exports, tmp_path: Path, store: str) -> None:
    export = exports.of(store)
    config = {"address": export.address, "key": export.space.key, **WHOLE_RANGE}
    for name, content in (("config.json", config), ("catalog.json", CATALOG)):
        (tmp_path / name).write_text(json.dumps(content))
    output = await output_of(
        tmp_path,
        *(CONSUMERS / "bin" / "source-declarative-manifest", "read", "--manifest-path", CONNECTOR),
        *("--config", "config.json", "--catalog", "catalog.json"),
    )
    # The program leaves out fields that are null.
    nulls = dict.fromkeys(("email", "name", "phone", "location"))
    found = ({**nulls, **message["record"]["data"]} for message in parsed(output) if message["type"] == "RECORD")
    assert_same(found, exports.records)

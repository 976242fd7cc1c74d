"""The demo: an embedded Postgres, a directory as object store, the real service, and a client that calls it."""

import asyncio
import gzip
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, cast

import click
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service import logs
from service.access import Access
from service.client import ClientError, Download, Export, ExportClient, ExportRequest, ExportStatus, Extra
from service.embedded import EmbeddedError
from service.embedded.postgres import EmbeddedPostgres, find_binaries, psql_path
from service.embedded.private_directory import private_directory
from service.errors import ServiceError
from service.home_directory import ignore_foreign_home
from service.model import Scope
from service.postgres.access import AccessTables
from service.postgres.migrate import migrate
from service.postgres.overview import Overview
from service.postgres.pool import Database
from service.postgres.sample_contacts import open_sample_contacts
from service.process import run as program
from service.settings import Settings

TIMEZONE = "Europe/Berlin"
"""A timezone with daylight saving time, because local dates and UTC differ by one or two hours there."""
FIRST_DAY = datetime(2024, 1, 1, tzinfo=UTC)
REQUEST = ExportRequest(datetime(2024, 1, 1), datetime(2024, 12, 31, 23, 59, 59), (Extra.COMET_TOKENS, Extra.EMAILS))  # noqa: DTZ001 - local times of the Space
_SECONDS_PER_STATUS = 2
_PREFIX = "contact-exports-demo-"

console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option(
    "--contacts", default=100_000, show_default=True, type=click.IntRange(1, 10_000_000), help="Number of sample contacts."
)
@click.option("--keep", is_flag=True, help="Keep the service running until Ctrl-C, to try the printed commands.")
def demo(*, contacts: int, keep: bool) -> None:
    """Run an export from start to finish with temporary data, and remove the data afterwards."""
    ignore_foreign_home()
    logs.set_up(level="warning", form="console")
    try:
        with private_directory(_PREFIX) as directory, EmbeddedPostgres(directory / "postgres") as postgres:
            console.print(f"[bold]Postgres {postgres.version}[/] on a unix socket, files in {directory / 'files'}")
            asyncio.run(_Demo(directory, postgres.dsn(), contacts, keep=keep).run())
    except (ClientError, EmbeddedError, ServiceError) as error:
        raise click.ClickException(str(error)) from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None


class _Demo:
    def __init__(self, directory: Path, dsn: str, contacts: int, *, keep: bool) -> None:
        self._directory = directory
        self._dsn = dsn
        self._contacts = contacts
        self._keep = keep
        self._stop = program.Stop()

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, asyncio.current_task())
        await migrate(self._dsn)
        key = await self._seed()
        async with self._service() as address, ExportClient(address, key) as client:
            await client.ready()
            console.print(f"[bold]Service[/] at {address}\n")
            export = await self._export(client)
            path = self._directory / f"contacts-{export.export_id}.ndjson.gz"
            file = await client.download(export, path)
            self._report(file, await self._own_duration(export.export_id))
            if not self._keep:
                console.print("\nThe service stops now. To try calls of your own: ./run demo --keep")
            else:
                self._show_commands(address, key, export.export_id)
                console.print("\n[bold]The service keeps running.[/] Ctrl-C stops it and removes all data.")
                await asyncio.Event().wait()

    @staticmethod
    def _interrupt(task: "asyncio.Task[None] | None") -> None:
        if task is not None:
            task.cancel()

    async def _seed(self) -> str:
        started = time.monotonic()
        async with Database(self._dsn, application_name="demo", size=1) as database:
            access = Access(AccessTables(database))
            space_id = await access.create_space("Demonstration", TIMEZONE)
            key = await access.create_key(space_id, Scope)
        async with open_sample_contacts(self._dsn) as contacts:
            await contacts.create(
                space_id=space_id,
                count=self._contacts,
                first_created_at=FIRST_DAY,
                last_created_at=FIRST_DAY + timedelta(days=364),
            )
        console.print(f"{self._contacts:,} sample contacts in {time.monotonic() - started:.1f} s")
        return key

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[str]:
        files = self._directory / "files"
        # Without validation no variable of the environment is read: settings of another service must not reach the demo.
        settings = Settings.model_construct(
            database_url=SecretStr(self._dsn),
            storage_url=files.as_uri(),
            port=0,
            admin_port=0,
            poll_seconds=1.0,
            grace_seconds=2.0,
        )
        files.mkdir()
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(program.run(settings, self._stop, on_listening=address.set_result))
        try:
            await asyncio.wait(cast(list[asyncio.Future[Any]], [running, address]), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
            yield address.result()
        finally:
            self._stop.ask()
            await asyncio.gather(running, return_exceptions=True)

    async def _export(self, client: ExportClient) -> Export:
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        with bar:
            task = bar.add_task("queued", total=self._contacts)
            export_id = await client.create(REQUEST)
            async for export in client.statuses(export_id, wait=_SECONDS_PER_STATUS):
                rows = export.progress.rows if export.progress else 0
                done, total = (export.file.row_count,) * 2 if export.file else (rows, self._contacts)
                bar.update(task, description=export.status, completed=done, total=total)
        if export.status is not ExportStatus.COMPLETED:
            raise ClientError(f"the export ended with status {export.status}: {export.message}")
        return export

    async def _own_duration(self, export_id: int) -> timedelta:
        """The time from the claim of the export to its completion, without the requests before and after."""
        async with Database(self._dsn, application_name="demo", size=1) as database:
            row = await Overview(database).one(export_id)
        assert row is not None
        return cast(timedelta, row["duration"])

    def _report(self, file: Download, duration: timedelta) -> None:
        seconds, merged = max(duration.total_seconds(), 0.001), self._contacts - file.rows
        console.print(
            f"\n[bold green]Completed and verified.[/] The export took {seconds:.2f} s: {file.rows / seconds:,.0f} rows/s"
        )
        console.print(f"  rows    {file.rows:,} of {self._contacts:,} contacts: {merged:,} were merged into another contact")
        console.print(f"  bytes   {file.size:,}\n  sha256  {file.sha256} [green](verified)[/]\n")
        with gzip.open(file.path, "rt", encoding="utf-8") as lines:
            for line in islice(lines, 3):
                console.print(f"  {escape(line.strip())}")

    def _show_commands(self, address: str, key: str, export_id: int) -> None:
        url = f"{address}/public-api/v1/contacts/exports"
        body = f'{{"start_date": "{REQUEST.start_date}", "end_date": "{REQUEST.end_date}"}}'
        console.print("\n[bold]Try it yourself[/]")
        for command in (
            f"curl -X POST {url} -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'",
            f"curl {url}/{export_id} -H 'Authorization: Bearer {key}'",
            f"{shutil.which('psql') or psql_path(find_binaries())} '{self._dsn}' -x -c 'TABLE export_overview'",
        ):
            console.print(f"  {escape(command)}")

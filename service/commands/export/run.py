"""One run of the command: create or follow an export, download its file, and end with an exit code."""

import asyncio
import signal
import sys
import time
from typing import Any
from uuid import uuid4

import click
import orjson

from service.client import ClientError, Export, ExportClient, NoFile, Progress, Refused, TargetExists, WrongFile
from service.commands.export import exit_codes, results
from service.commands.export.delivery import Delivery, open_target
from service.commands.export.display import Display
from service.commands.export.exit_codes import ExitCode
from service.commands.export.following import Following
from service.commands.export.forms import converter
from service.commands.export.order import Follow, OnInterrupt, Order
from service.model import ExportRequest, ExportStatus

_LIVE_WAIT, _PLAIN_WAIT = 2, 30
"""Seconds between two states of a running export, with a bar and without."""
_CREATION_SECONDS = 10.0
"""How long an interrupted command waits for the id of the export that it is creating."""
_CANCELLATION_SECONDS = 10.0
_OPTIONS = {"start_date": "--from", "end_date": "--to"}


class Interrupted(Exception):
    """A signal ended the command."""


def execute(order: Order) -> int:
    """Run the command to its end, print what a person or a script needs, and return the exit code."""
    run = Run(order, Display(sys.stderr, quiet=order.quiet))
    try:
        result, code = asyncio.run(run.supervised()), int(ExitCode.DONE)
    except ClientError as error:
        code = exit_codes.of(error)
        result = run.failure(error, code)
    except (Interrupted, KeyboardInterrupt, asyncio.CancelledError):
        code = 128 + run.signal
        result = run.failure(None, code)
    if order.as_json:
        click.echo(orjson.dumps(result, option=orjson.OPT_UTC_Z).decode(), err=order.target is None)
    return code


class Run:
    """One run. `signal` is the number of the signal that interrupts it."""

    def __init__(self, order: Order, display: Display) -> None:
        self.signal = int(signal.SIGINT)
        self._order = order
        self._display = display
        self._export_id: int | None = order.what if isinstance(order.what, int) else None
        self._created = False
        self._client = ExportClient(order.url, order.key, on_notice=display.say)

    async def supervised(self) -> dict[str, Any]:
        """Run until the file is in place or a signal arrives. Returns the summary. Raises ClientError or Interrupted."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
                continue
            asyncio.get_running_loop().add_signal_handler(number, self._interrupt, number, task)
        async with self._client:
            try:
                return await self._deliver()
            except asyncio.CancelledError:
                task.uncancel()
                await self._decide()
                raise Interrupted from None
            finally:
                self._display.clear()

    def failure(self, error: ClientError | None, code: int) -> dict[str, Any]:
        """Explain why the command ends. Returns the object of `--json`."""
        self._display.clear()
        sentence = str(error) if error else f"The command was interrupted by {signal.Signals(self.signal).name}."
        result: dict[str, Any] = {"export_id": self._export_id, "error": sentence, "exit_code": code}
        match error:
            case Refused() if error.fields:
                result["fields"] = error.fields
                for name, sentences in error.fields.items():
                    self._display.fail(f"The service refused {_OPTIONS.get(name, name)}: {' '.join(sentences)}")
            case TargetExists():
                self._display.fail(f"{sentence} Give --force to replace it.")
            case _:
                self._display.fail(sentence)
        return result

    def _interrupt(self, number: signal.Signals, task: "asyncio.Task[Any]") -> None:
        self.signal = int(number)
        task.cancel()

    async def _decide(self) -> None:
        """Cancel the export of an interrupted command, or say how to download it later."""
        if self._export_id is None:
            return
        choice = self._order.on_interrupt or self._ask()
        if choice == "cancel":
            try:
                async with asyncio.timeout(_CANCELLATION_SECONDS):
                    export = await self._client.cancel(self._export_id)
                self._display.fail(f"Export {self._export_id} is {export.status}.")
            except (ClientError, TimeoutError) as error:
                self._display.fail(f"Export {self._export_id} could not be cancelled: {str(error) or 'no response.'}")
        else:
            self._display.fail(
                f"Export {self._export_id} was left as it is."
                f" Download it later with: contact-exports export --id {self._export_id}"
            )

    def _ask(self) -> OnInterrupt:
        """Ask a person at a terminal; leave the export otherwise, and after a second interrupt."""
        self._display.clear()
        if not (self._created and self.signal == signal.SIGINT and sys.stdin.isatty() and sys.stderr.isatty()):
            return "leave"
        try:
            cancel = click.confirm(f"Cancel export {self._export_id} on the service as well?", default=False, err=True)
        except (click.Abort, KeyboardInterrupt):
            return "leave"
        return "cancel" if cancel else "leave"

    async def _deliver(self) -> dict[str, Any]:
        started = time.monotonic()
        following = Following(self._order.what) if isinstance(self._order.what, Follow) else None
        with open_target(self._order) as target:
            export = await self._export(following)
            assert export.file is not None
            keep = following.keep if following else None
            convert = converter(self._order.form, self._order.extras, keep)
            delivery = Delivery(target, convert, self._display, export.file.size)
            try:
                received = await self._client.fetch(export, delivery)
                await delivery.complete()
            except WrongFile as error:
                delivery.refuse(error)
            if following is not None:
                await asyncio.to_thread(following.save, export)
        new_rows = following.kept if following else export.file.row_count
        result = results.summary(self._order, export, received, new_rows, time.monotonic() - started)
        self._display.clear()
        self._display.say(results.in_words(result))
        return result

    async def _export(self, following: Following | None) -> Export:
        """The completed export that is to be downloaded, created unless it was named."""
        what = self._order.what
        if isinstance(what, int):
            return await self._followed(what)
        if isinstance(what, ExportRequest):
            return await self._followed(await self._create(what))
        assert following is not None
        await following.check_space(self._client)
        export = await self._followed(await self._create(following.request(self._order.extras)))
        if following.has_gap(export):
            self._display.say(f"The timezone of the Space is now {export.timezone}, so the export is repeated.")
            await self._client.cancel(export.export_id)
            request = following.request(self._order.extras, export.timezone)
            export = await self._followed(await self._create(request))
        following.until(export)
        return export

    async def _create(self, request: ExportRequest) -> int:
        """Create an export. A cancellation meanwhile waits for its id, so that it can be cancelled as well."""
        self._export_id = None
        creating = asyncio.ensure_future(self._client.create(request, idempotency_key=uuid4().hex))
        try:
            self._export_id = await asyncio.shield(creating)
        except asyncio.CancelledError:
            await asyncio.wait([creating], timeout=_CREATION_SECONDS)
            if creating.done() and creating.exception() is None:
                self._export_id = creating.result()
            else:
                creating.cancel()
                self._display.fail("It is unknown whether an export was created.")
            raise
        finally:
            self._created = self._export_id is not None
        self._display.say(f"Export {self._export_id} was created.")
        return self._export_id

    async def _followed(self, export_id: int) -> Export:
        """Wait for the end of an export. Raises NoFile unless it completes."""
        wait = _LIVE_WAIT if self._display.live else _PLAIN_WAIT
        async for export in self._client.statuses(export_id, wait=wait):
            if export.status.pending:
                progress = export.progress or Progress(0, None)
                self._display.rows(progress.rows, progress.rows_estimated)
        if export.status is not ExportStatus.COMPLETED:
            raise NoFile(results.without_file(export))
        return export

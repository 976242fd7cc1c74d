"""From the received bytes to the target."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from service.client import WrongFile
from service.client.target import FileTarget
from service.commands.export.display import Display
from service.commands.export.exit_codes import WrongOutput
from service.commands.export.forms import Converter
from service.commands.export.order import Order
from service.commands.export.pipe import PipeTarget

_STDOUT = 1

Target = FileTarget | PipeTarget


@contextmanager
def open_target(order: Order) -> Iterator[Target]:
    """The target of a run. A file is opened before the export is created, so that a fault of it is found at once."""
    if order.target is None:
        yield PipeTarget(_STDOUT)
        return
    with FileTarget(order.target, replace=order.force) as target:
        yield target


class Delivery:
    """Receives a file of `size` bytes and writes it to a target, converted unless `converter` is None."""

    def __init__(self, target: Target, converter: Converter | None, display: Display, size: int) -> None:
        self._target = target
        self._converter = converter
        self._display = display
        self._size = size
        self._received = 0

    async def packed(self, data: bytes) -> None:
        """Bytes of the compressed file."""
        if self._converter is None:
            await self._target.write(data)
        self._received += len(data)
        self._display.size(self._received, self._size)

    async def content(self, data: bytes) -> None:
        """Decompressed bytes. Raises WrongFile."""
        if self._converter is not None:
            await self._target.write(await asyncio.to_thread(self._converter.feed, data))

    async def complete(self) -> None:
        """Write what is left of a verified file, and give the file its name."""
        if self._converter is not None:
            await self._target.write(self._converter.end())
        if isinstance(self._target, FileTarget):
            await self._target.place()

    def refuse(self, error: WrongFile) -> NoReturn:
        """Keep a wrong file under another name. Raises WrongFile, or WrongOutput if a pipe already has the content."""
        if isinstance(self._target, FileTarget):
            raise WrongFile(f"{error} It was not accepted and is kept as {self._target.keep_aside()}.") from None
        if self._target.written:
            raise WrongOutput(f"{error} Discard what standard output got.") from None
        raise error

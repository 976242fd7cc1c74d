"""Standard output as a target."""

import asyncio
import os
import select

from service.client.errors import TargetError
from service.commands.export.exit_codes import ClosedPipe


class PipeTarget:
    """Writes to a descriptor that other processes may share, so it stays in blocking mode.

    A pipe that is ready takes PIPE_BUF bytes without blocking. So a reader that has stopped blocks no thread, and the
    command can be interrupted.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._ready = select.poll()
        self._ready.register(descriptor, select.POLLOUT)
        self.written = 0

    async def write(self, data: bytes) -> None:
        """Write all bytes. Raises ClosedPipe or TargetError."""
        rest = memoryview(data)
        while rest:
            if not self._ready.poll(0):
                await self._until_ready()
            try:
                count = os.write(self._descriptor, rest[: select.PIPE_BUF])
            except BrokenPipeError:
                raise ClosedPipe("The reader of standard output has ended.") from None
            except OSError as error:
                raise TargetError(f"Standard output cannot be written ({error.strerror}).") from None
            self.written += count
            rest = rest[count:]

    async def _until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._descriptor)

"""An object store that measures every call to another one."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Protocol, TypeVar

from service.failures import ExportFailure
from service.metrics.instruments import Instruments
from service.model import Part
from service.storage import Link, Marker, ObjectStore, StoredObject, UnfinishedUpload, Upload

T = TypeVar("T")


class Observe(Protocol):
    """Gets the operation, its result and its seconds; of a part also its number and its size in bytes."""

    def __call__(self, operation: str, result: str, seconds: float, /, *, part: int = 0, size: int = 0) -> None:
        """Called at the end of a call."""


class MeasuredStore:
    """An `ObjectStore` that passes every call on and observes its duration and result, and tells `others`.

    The result is `ok`, the error code of an ExportFailure, `cancelled` or `error`.
    """

    def __init__(self, inner: ObjectStore, instruments: Instruments, *others: Observe) -> None:
        self._inner = inner

        def observe(operation: str, result: str, seconds: float, /, *, part: int = 0, size: int = 0) -> None:
            instruments.store_seconds.labels(operation, result).observe(seconds)
            for other in others:
                other(operation, result, seconds, part=part, size=size)

        self._observe: Observe = observe

    @asynccontextmanager
    async def upload(
        self, object_name: str, *, part_size: int, filename: str, metadata: Mapping[str, str]
    ) -> AsyncIterator[Upload]:
        """See `ObjectStore`."""
        async with AsyncExitStack() as stack:
            with _call("begin_upload", self._observe):
                upload = await stack.enter_async_context(
                    self._inner.upload(object_name, part_size=part_size, filename=filename, metadata=metadata)
                )
            yield _MeasuredUpload(upload, self._observe)

    async def abort_upload(self, object_name: str, upload_id: str) -> None:
        """See `ObjectStore`."""
        with _call("abort_upload", self._observe):
            await self._inner.abort_upload(object_name, upload_id)

    async def delete(self, object_name: str) -> None:
        """See `ObjectStore`."""
        with _call("delete", self._observe):
            await self._inner.delete(object_name)

    async def link(self, object_name: str, *, filename: str, origin: str) -> Link:
        """See `ObjectStore`."""
        with _call("link", self._observe):
            return await self._inner.link(object_name, filename=filename, origin=origin)

    def unfinished_uploads(self, object_name: str = "") -> AsyncIterator[UnfinishedUpload]:
        """See `ObjectStore`."""
        return _listed("list_uploads", self._inner.unfinished_uploads(object_name), self._observe)

    def objects(self) -> AsyncIterator[StoredObject]:
        """See `ObjectStore`."""
        return _listed("list_objects", self._inner.objects(), self._observe)

    async def exists(self, object_name: str) -> bool:
        """See `ObjectStore`."""
        with _call("exists", self._observe):
            return await self._inner.exists(object_name)

    async def read_marker(self) -> Marker | None:
        """See `ObjectStore`."""
        with _call("read_marker", self._observe):
            return await self._inner.read_marker()

    async def write_marker(self, content: bytes) -> None:
        """See `ObjectStore`."""
        with _call("write_marker", self._observe):
            await self._inner.write_marker(content)

    async def probe(self) -> None:
        """See `ObjectStore`."""
        with _call("probe", self._observe):
            await self._inner.probe()

    async def rehearse(self) -> list[str]:
        """See `ObjectStore`."""
        with _call("rehearse", self._observe):
            return await self._inner.rehearse()

    async def create(self) -> None:
        """See `ObjectStore`."""
        with _call("create", self._observe):
            await self._inner.create()


class _MeasuredUpload:
    def __init__(self, inner: Upload, observe: Observe) -> None:
        self._inner = inner
        self._observe = observe

    @property
    def upload_id(self) -> str:
        return self._inner.upload_id

    async def put_part(self, number: int, part: Part) -> None:
        observe = partial(self._observe, part=number, size=sum(len(piece) for piece in part))
        with _call("put_part", observe):
            await self._inner.put_part(number, part)

    async def complete(self) -> None:
        with _call("complete_upload", self._observe):
            await self._inner.complete()


@contextmanager
def _call(operation: str, observe: Callable[[str, str, float], None]) -> Iterator[None]:
    started = time.perf_counter()
    result = "error"
    try:
        yield
        result = "ok"
    except ExportFailure as error:
        result = error.code
        raise
    except asyncio.CancelledError:
        result = "cancelled"
        raise
    except GeneratorExit:  # the consumer of a listing wanted no more
        result = "ok"
        raise
    finally:
        observe(operation, result, time.perf_counter() - started)


async def _listed(operation: str, items: AsyncIterator[T], observe: Observe) -> AsyncIterator[T]:
    """Iterate over a listing: one observation of the whole, without the time that its consumer takes."""
    taken = 0.0

    def observe_own(operation: str, result: str, seconds: float) -> None:
        observe(operation, result, seconds - taken)

    with _call(operation, observe_own):
        async for item in items:
            paused = time.perf_counter()
            yield item
            taken += time.perf_counter() - paused

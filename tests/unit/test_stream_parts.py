"""Chunks become parts of one size, in order, at most two in flight, and nothing is left running however it ends."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.exports.stream.file import BLOCK_SIZE, Stream, write_file
from service.exports.stream.parts import IN_FLIGHT, PartWriter
from service.failures import StorageUnavailable, TooLarge
from service.model import Part, StoredFile

SIZE = 10


class Upload:
    """An upload that stores parts while `open` is set and records what it got."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self.taken: dict[int, bytes] = {}
        self.stored: list[int] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.broken: dict[int, Exception] = {}

    async def put_part(self, number: int, part: Part) -> None:
        self.started.append(number)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            if number in self.broken:
                raise self.broken[number]
            self.taken[number] = b"".join(part)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.in_flight -= 1

    async def until_started(self, *parts: int) -> None:
        """Wait until exactly these parts were started, and give the writer time to start more."""
        async with asyncio.timeout(20):
            while self.started != list(parts):
                await asyncio.sleep(0.001)
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert self.started == list(parts)

    @property
    def content(self) -> bytes:
        assert sorted(self.taken) == list(range(1, len(self.taken) + 1))
        return b"".join(self.taken[number] for number in sorted(self.taken))


def other_tasks() -> set[asyncio.Task[object]]:
    current = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not current}


async def write(upload: Upload, chunks: Iterable[bytes], *, maximum: int = 10_000) -> None:
    async with PartWriter(upload.put_part, part_size=SIZE, maximum_parts=maximum, on_stored=upload.stored.append) as parts:
        for chunk in chunks:
            await parts.write(chunk)
            await asyncio.sleep(0)
        await parts.finish()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=3 * SIZE) | st.integers(1, 8).map(lambda n: bytes(n * SIZE)), max_size=8))
async def test_parts_contain_the_chunks_in_order_regardless_of_their_sizes(chunks: list[bytes]) -> None:
    upload = Upload()
    await write(upload, chunks)
    assert upload.content == b"".join(chunks)
    sizes = [len(upload.taken[number]) for number in sorted(upload.taken)]
    assert set(sizes[:-1]) <= {SIZE}
    assert sizes[-1] <= SIZE
    assert sizes == [0] or 0 not in sizes
    assert sorted(upload.stored) == sorted(sizes)
    assert upload.most_in_flight <= IN_FLIGHT


@pytest.mark.parametrize(
    ("chunks", "sizes"),
    [
        ([], [0]),
        ([b""], [0]),
        ([b"x" * 9], [9]),
        ([b"x" * 10], [10]),
        ([b"x" * 30], [10, 10, 10]),
        ([b"x" * 5, b"x" * 5, b"x" * 10], [10, 10]),
        ([b"x" * 31], [10, 10, 10, 1]),
    ],
)
async def test_only_the_last_part_can_be_shorter_and_only_a_single_part_can_be_empty(
    chunks: list[bytes], sizes: list[int]
) -> None:
    upload = Upload()
    await write(upload, chunks)
    assert [len(upload.taken[number]) for number in sorted(upload.taken)] == sizes


async def test_writing_waits_while_two_parts_are_in_flight() -> None:
    upload = Upload()
    upload.open.clear()
    chunks = iter([b"x" * SIZE] * 4)
    writing = asyncio.create_task(write(upload, chunks))
    await upload.until_started(1, 2)
    assert len(list(chunks)) == 1
    upload.open.set()
    await writing
    assert upload.content == b"x" * 3 * SIZE
    assert upload.most_in_flight == IN_FLIGHT == 2


async def test_a_part_counts_after_it_is_stored_and_finish_waits_for_that() -> None:
    upload = Upload()
    upload.open.clear()
    writing = asyncio.create_task(write(upload, [b"x" * (SIZE + 1)]))
    await upload.until_started(1, 2)
    assert (upload.stored, writing.done()) == ([], False)
    upload.open.set()
    await writing
    assert upload.stored == [SIZE, 1]


async def test_the_maximum_number_of_parts_can_be_written() -> None:
    upload = Upload()
    await write(upload, [b"x" * 3 * SIZE], maximum=3)
    assert len(upload.taken) == 3


@pytest.mark.parametrize("chunks", [[b"x" * (3 * SIZE + 1)], [b"x" * 4 * SIZE], [b"x" * SIZE] * 9])
async def test_more_parts_than_the_maximum_are_too_large(chunks: list[bytes]) -> None:
    upload = Upload()
    with pytest.raises(TooLarge):
        await write(upload, chunks, maximum=3)
    assert max(upload.started) <= 3
    assert other_tasks() == set()


async def test_a_failed_part_stops_the_writer() -> None:
    upload = Upload()
    upload.broken[2] = StorageUnavailable(detail="part 2")
    with pytest.raises(StorageUnavailable, match="part 2"):
        await write(upload, [b"x" * SIZE] * 50)
    assert max(upload.started) <= 2 + IN_FLIGHT
    assert other_tasks() == set()


async def test_a_failed_last_part_fails_the_finish() -> None:
    upload = Upload()
    upload.broken[2] = StorageUnavailable(detail="part 2")
    with pytest.raises(StorageUnavailable, match="part 2"):
        await write(upload, [b"x" * (SIZE + 1)])
    assert upload.stored == [SIZE]
    assert other_tasks() == set()


async def test_a_failing_source_cancels_the_parts_in_flight() -> None:
    upload = Upload()
    upload.open.clear()

    def breaking() -> Iterator[bytes]:
        yield b"x" * 2 * SIZE
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write(upload, breaking())
    assert sorted(upload.cancelled) == [1, 2]
    assert upload.stored == []
    assert other_tasks() == set()


async def test_cancelling_a_waiting_writer_leaves_nothing_running() -> None:
    upload = Upload()
    upload.open.clear()
    writing = asyncio.create_task(write(upload, [b"x" * 5 * SIZE]))
    await upload.until_started(1, 2)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert sorted(upload.cancelled) == [1, 2]
    assert upload.in_flight == 0
    assert other_tasks() == set()


async def test_cancelling_a_finish_leaves_nothing_running() -> None:
    upload = Upload()
    upload.open.clear()
    writing = asyncio.create_task(write(upload, [b"x"]))
    await upload.until_started(1)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert other_tasks() == set()


# The whole stream ----------------------------------------------------------------------------------------------------

Batch = list[bytes]


def encode(batch: object) -> bytes:
    assert isinstance(batch, list)
    return b"".join(line + b"\n" for line in batch)


def noise(size: int, start: int = 0) -> bytes:
    """Return bytes that do not compress."""
    digests: Iterator[bytes] = (hashlib.sha256(b"%d" % number).digest() for number in range(start, start + size // 32 + 1))
    return b"".join(digests)[:size].replace(b"\n", b" ")


async def source(*batches: Batch) -> AsyncIterator[Batch]:
    for batch in batches:
        yield batch


async def streamed(upload: Upload, batches: AsyncIterator[Batch], read: list[tuple[int, int]]) -> StoredFile:
    writer = PartWriter(upload.put_part, part_size=100_000, maximum_parts=1000, on_stored=upload.stored.append)
    async with writer as parts:
        return await write_file(
            Stream(batches, encode, parts),
            before_batch=lambda: asyncio.sleep(0),
            on_encoded=lambda rows, size: read.append((rows, size)),
        )


@pytest.mark.parametrize(
    "batches",
    [
        [],
        [[b"one"]],
        [[b"one", b"two"], [b"three"]],
        [[noise(BLOCK_SIZE - 1)]],
        [[noise(BLOCK_SIZE - 2)], [b"x"]],
        [[noise(BLOCK_SIZE // 2, start), b"x"] for start in range(7)],
        [[noise(3 * BLOCK_SIZE)], [b"x"], [noise(BLOCK_SIZE)], [b"y"]],
    ],
    ids=["empty", "one line", "small", "one block", "one block and a line", "halves of blocks", "large and small"],
)
async def test_parts_contain_all_lines_in_order_and_size_rows_and_checksum_match(batches: list[Batch]) -> None:
    upload = Upload()
    read: list[tuple[int, int]] = []
    file = await streamed(upload, source(*batches), read)
    assert gzip.decompress(upload.content) == b"".join(encode(batch) for batch in batches)
    assert file == StoredFile(
        row_count=sum(len(batch) for batch in batches),
        size=len(upload.content),
        sha256=hashlib.sha256(upload.content).hexdigest(),
    )
    assert read == [(len(batch), len(encode(batch))) for batch in batches]
    assert sum(upload.stored) == file.size
    assert other_tasks() == set()


@pytest.mark.parametrize("batches", [0, 1, 2, 5])
async def test_a_failing_source_ends_the_stream_and_leaves_nothing_running(batches: int) -> None:
    async def breaking() -> AsyncIterator[Batch]:
        for _ in range(batches):
            yield [noise(2 * BLOCK_SIZE)]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await streamed(Upload(), breaking(), [])
    assert other_tasks() == set()


async def test_a_failing_store_ends_the_stream_and_leaves_nothing_running() -> None:
    upload = Upload()
    upload.broken[1] = StorageUnavailable()

    async def endless() -> AsyncIterator[Batch]:
        while True:
            yield [noise(2 * BLOCK_SIZE)]

    with pytest.raises(StorageUnavailable):
        await streamed(upload, endless(), [])
    assert other_tasks() == set()


async def test_cancelling_a_stream_leaves_nothing_running() -> None:
    upload = Upload()
    upload.open.clear()
    waiting = asyncio.Event()

    async def slow() -> AsyncIterator[Batch]:
        yield [noise(2 * BLOCK_SIZE)]
        waiting.set()
        await asyncio.get_running_loop().create_future()

    streaming = asyncio.create_task(streamed(upload, slow(), []))
    await waiting.wait()
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming
    assert other_tasks() == set()


async def test_the_source_is_not_read_ahead_of_a_store_that_accepts_nothing() -> None:
    upload = Upload()
    upload.open.clear()
    read: list[tuple[int, int]] = []
    batches = [[noise(BLOCK_SIZE, start)] for start in range(20)]
    streaming = asyncio.create_task(streamed(upload, source(*batches), read))
    await upload.until_started(1, 2)
    while_closed = len(read)
    upload.open.set()
    await streaming
    assert while_closed < 10
    assert len(read) == 20

"""Blocks are compressed to one gzip member, and size and checksum are those of its bytes."""

import gzip
import hashlib
import random
import struct
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from service.exports.stream.compress import GzipStream


async def compressed(blocks: list[bytes]) -> tuple[bytes, GzipStream]:
    """Compress all blocks, the last one by `finish`; return the bytes and the stream."""
    stream = GzipStream()
    chunks = [await stream.compress([block]) for block in blocks[:-1]]
    chunks.append(await stream.finish(blocks[-1:]))
    return b"".join(chunks), stream


def single_member(data: bytes) -> bytes:
    """Return the content of the only member; fail if anything follows it or its trailer is wrong."""
    decompressor = zlib.decompressobj(31)
    content = decompressor.decompress(data)
    assert decompressor.eof
    assert decompressor.unused_data == b""
    assert struct.unpack("<II", data[-8:]) == (zlib.crc32(content), len(content) % 2**32)
    return content


@settings(deadline=None)
@given(st.lists(st.binary(max_size=4096) | st.integers(1, 300_000).map(bytes), max_size=6))
async def test_any_blocks_become_one_member_that_contains_them(blocks: list[bytes]) -> None:
    data, stream = await compressed(blocks)
    assert single_member(data) == b"".join(blocks)
    assert stream.size == len(data)
    assert stream.sha256 == hashlib.sha256(data).hexdigest()


async def test_chunks_are_in_the_order_of_the_calls_even_if_not_awaited() -> None:
    streams, blocks = [GzipStream(), GzipStream()], [random.Random(n).randbytes(50_000 >> n % 7) for n in range(40)]
    chunks = [(stream.compress([block]), stream.compress([block[:9]])) for block in blocks for stream in streams]
    last = [stream.finish([b"end"]) for stream in streams]
    for n, stream in enumerate(streams):
        data = b"".join([await chunk for pair in chunks[n::2] for chunk in pair]) + await last[n]
        assert single_member(data) == b"".join(block + block[:9] for block in blocks) + b"end"
        assert stream.sha256 == hashlib.sha256(data).hexdigest()


async def test_no_blocks_give_a_valid_member_of_zero_bytes() -> None:
    data, stream = await compressed([])
    assert single_member(data) == b""
    assert gzip.decompress(data) == b""
    assert stream.size == len(data) > 0


async def test_the_member_has_a_gzip_header_without_time_and_name() -> None:
    data, _ = await compressed([b"line\n"])
    assert data[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"


async def test_the_same_blocks_give_the_same_file() -> None:
    blocks = [b'{"id":1}\n' * 9999, b'{"id":2}\n']
    assert (await compressed(blocks))[0] == (await compressed(blocks))[0]


async def test_size_and_checksum_are_those_of_the_chunks_so_far() -> None:
    stream = GzipStream()
    so_far = b""
    noise = random.Random(1)
    for _ in range(20):
        so_far += await stream.compress([noise.randbytes(25_000), noise.randbytes(25_000)])
        assert stream.size == len(so_far)
        assert stream.sha256 == hashlib.sha256(so_far).hexdigest()
    assert so_far


async def test_lines_of_contacts_compress_to_less_than_a_quarter() -> None:
    lines = b"".join(b'{"id":%d,"email":"user%d@mail.test","name":null}\n' % (n, n * 7) for n in range(50_000))
    data, _ = await compressed([lines[:1_000_000], lines[1_000_000:]])
    assert single_member(data) == lines
    assert len(data) * 4 < len(lines)

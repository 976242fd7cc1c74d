"""Lower bounds: the database alone, and each step of an export alone, to compare the whole export with."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from itertools import cycle
from typing import Any
from uuid import uuid4

from service.exports.stream.compress import GzipStream
from service.exports.stream.file import BLOCK_SIZE
from service.exports.stream.lines import encoder
from service.exports.stream.parts import PartWriter
from service.model import Claim, Window
from service.postgres.contact_source import ContactSource
from service.postgres.snapshot import BATCH_ROWS
from service.process.run import tune_garbage_collector
from service.storage import MAXIMUM_PARTS, ObjectStore
from tests.bench.bench import Bench, Figures
from tests.bench.dataset import Contacts
from tests.bench.object_store import bucket_of
from tests.bench.rivals import Rivals, copy_of_columns, copy_of_json, select
from tests.bench.workloads import WORKLOADS, YEAR, Workload
from tests.support import s3, stores
from tests.support.contacts import chosen_extras
from tests.support.snapshots import at_once

Batch = Sequence[Any]

_MILLION = 1_000_000
_KEPT_BATCHES = 60
"""Of 500 rows each: more than the CPU caches hold, but little memory."""
_SECONDS = 1.0
_PART_SIZE = 8 * 1024 * 1024
_PARTS = 6
_PIECES = 128
"""Chunks per part: 64 KiB each, as in an export."""
_LINE_BYTES = 200


async def measure(bench: Bench) -> Figures:
    """Seconds per million contacts, by workload and step. The copies also report the server's CPU time."""
    contacts = await bench.contacts()
    tune_garbage_collector()
    figures: Figures = {}
    for name in bench.plan.workloads:
        bench.say(f"stages: {name}")
        workload = WORKLOADS[name]
        steps = await _copies(bench, contacts, workload)
        decode, kept = await _decode(contacts, workload)
        serialise, lines = _serialise(kept, workload, bench.plan.shorter(100, 5) / 100)
        compress, ratio = await _compress(lines, bench.plan.shorter(100, 5) / 100)
        size = ratio * sum(map(len, lines)) / sum(map(len, kept))
        steps |= decode | serialise | compress | {"compressed_bytes_per_row": size}
        figures[name] = steps
    for kind, per_byte in (await _uploads(bench)).items():
        for steps in figures.values():
            steps[f"upload_{kind}"] = per_byte * steps["compressed_bytes_per_row"] * _MILLION
    return {"stages": figures}


async def _copies(bench: Bench, contacts: Contacts, workload: Workload) -> Figures:
    """psql with its output discarded: the columns in binary, and the lines of JSON."""
    rivals = Rivals(contacts.dsn, bench.server.pid, bench.directory)
    lacking = rivals.missing_psql()
    bench.missing.update(lacking)
    figures: Figures = {}
    query = select(contacts.spaces[0].space_id, YEAR, workload)
    for name, copy in (("copy_binary", copy_of_columns(query)), ("copy_json", copy_of_json(query))):
        run = None if lacking else await asyncio.to_thread(rivals.copy_to_nowhere, copy)
        figures[name] = run and run.seconds * _MILLION / contacts.count
        figures[f"{name}_cpu_server"] = run and run.cpu_server * _MILLION / contacts.count
    return figures


async def _decode(contacts: Contacts, workload: Workload) -> tuple[Figures, list[Batch]]:
    """Read the stream of batches without using it; keep some batches for the next steps."""
    source = ContactSource(contacts.dsn, fetch_timeout=timedelta(minutes=2))
    rows = 0
    kept: list[Batch] = []
    started, busy = time.perf_counter(), time.process_time()
    async with source.snapshot(_claim(contacts, workload)) as snapshot, aclosing(snapshot.batches(at_once)) as batches:
        async for batch in batches:
            rows += len(batch)
            snapshot.pace(len(batch), _LINE_BYTES * len(batch))
            if len(kept) < _KEPT_BATCHES and len(batch) == BATCH_ROWS:
                kept.append(batch)
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    return {"decode": seconds * _MILLION / rows, "decode_cpu_client": cpu * _MILLION / rows}, kept


def _serialise(kept: list[Batch], workload: Workload, seconds: float) -> tuple[Figures, list[bytes]]:
    encode = encoder(chosen_extras(tokens=workload.tokens, emails=workload.emails))
    lines = [encode(batch) for batch in kept]
    taken, rows = _repeat(encode, kept, seconds)
    return {"serialise": taken * _MILLION / rows}, lines


async def _compress(lines: list[bytes], seconds: float) -> tuple[Figures, float]:
    """Compress in blocks and in the thread, as the service does. Also returns the ratio of sizes."""
    text = b"".join(lines)
    rows = text.count(b"\n")
    blocks = [text[start : start + BLOCK_SIZE] for start in range(0, len(text), BLOCK_SIZE)]
    started, done, stream = time.perf_counter(), 0, GzipStream()
    while done == 0 or time.perf_counter() - started < seconds:
        stream = GzipStream()
        for block in blocks:
            await stream.compress([block])
        await stream.finish()
        done += rows
    return {"compress": (time.perf_counter() - started) * _MILLION / done}, stream.size / len(text)


async def _uploads(bench: Bench) -> dict[str, float]:
    """Seconds per byte of an upload to a directory and to the S3 server."""
    figures = {}
    async with stores.directory_store(bench.directory / "upload") as directory:
        figures["directory"] = await _upload(directory.store)
    with s3.store() as access:
        async with bucket_of(access) as (under_test, _):
            figures["s3"] = await _upload(under_test.store)
    return figures


async def _upload(store: ObjectStore) -> float:
    piece, name = os.urandom(_PART_SIZE // _PIECES), "bench"
    started = time.perf_counter()
    async with store.upload(name, part_size=_PART_SIZE, filename=name, metadata={}) as upload:
        async with PartWriter(
            upload.put_part, part_size=_PART_SIZE, maximum_parts=MAXIMUM_PARTS, on_stored=lambda size: None
        ) as parts:
            for _ in range(_PARTS * _PIECES):
                await parts.write(piece)
            await parts.finish()
        await upload.complete()
    seconds = time.perf_counter() - started
    await store.delete(name)
    return seconds / (_PARTS * _PART_SIZE)


def _repeat(step: Callable[[Any], object], batches: list[Batch], seconds: float) -> tuple[float, int]:
    """Run the step on one batch after another for `seconds`; return the duration and the rows."""
    started, rows = time.perf_counter(), 0
    for batch in cycle(batches):
        step(batch)
        rows += len(batch)
        if time.perf_counter() - started > seconds:
            break
    return time.perf_counter() - started, rows


def _claim(contacts: Contacts, workload: Workload) -> Claim:
    return Claim(
        claim_id=uuid4(),
        export_id=0,
        space_id=contacts.spaces[0].space_id,
        attempt=1,
        alone=False,
        object_name="bench",
        window=Window(YEAR.start, YEAR.end),
        extras=chosen_extras(tokens=workload.tokens, emails=workload.emails),
    )

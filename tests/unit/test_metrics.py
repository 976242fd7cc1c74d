"""Metrics: what is counted, under which labels, and figures that outlive an outage."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service import events
from service.errors import DatabaseUnavailable
from service.failures import StorageRefused
from service.metrics import last_known
from service.metrics.instruments import Instruments
from service.metrics.last_known import LastKnown
from service.metrics.scrape import Metrics
from service.metrics.transitions import TransitionCounter
from service.model import ExportStatus
from service.storage.directory import DirectoryStore
from tests.support.metrics import Samples, samples, value
from tests.support.snapshots import claim_on
from tests.support.stores import link_secret
from tests.unit.test_events import every_event

SECOND = timedelta(seconds=1)


def own(text: bytes) -> Samples:
    """The values of a scrape without those of the operating system."""
    return {key: value for key, value in samples(text.decode()).items() if key[0].startswith("contact_exports_")}


async def test_every_transition_of_an_export_changes_a_counter() -> None:
    metrics = Metrics()
    async with metrics.listening():
        # The process that cancelled the export counts its attempt, so the process that stops it does not.
        for event in every_event(claim_on()):
            before = own(await metrics.text())
            events.emit(event)
            changed = own(await metrics.text()) != before
            assert changed is not isinstance(event, events.AttemptCancelled), event


def counted(*emitted: events.Event) -> dict[tuple[str, tuple[str, ...]], float]:
    """The counters of attempts and rescues that are not 0 after these events."""
    registry = CollectorRegistry()
    count = TransitionCounter(Instruments(registry))
    for event in emitted:
        count(event)
    return {
        (sample.name.removeprefix("contact_exports_"), tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.value and sample.name.endswith(("attempts_ended_total", "exports_ended_total", "rescues_total"))
    }


def test_an_attempt_is_counted_once_by_the_outcome_that_was_recorded() -> None:
    claim = claim_on()
    lost = events.ExportFailed(1, claim.claim_id, "worker_lost", None)
    assert counted(lost) == {
        ("attempts_ended_total", ("lost",)): 1,
        ("exports_ended_total", ("failed", "worker_lost")): 1,
        ("rescues_total", ("failed",)): 1,
    }
    assert counted(events.ExportKicked(1, claim.claim_id)) == {("attempts_ended_total", ("handed_back",)): 1}
    assert counted(events.ExportKicked(1, None)) == {}
    running = events.ExportCancelled(1, 2, ExportStatus.PROCESSING, ExportStatus.CANCELLED)
    assert counted(running, events.AttemptCancelled(claim)) == {
        ("attempts_ended_total", ("cancelled",)): 1,
        ("exports_ended_total", ("cancelled", "")): 1,
    }
    queued = events.ExportCancelled(1, 2, ExportStatus.QUEUED, ExportStatus.CANCELLED)
    assert counted(queued) == {("exports_ended_total", ("cancelled", "")): 1}


async def test_calls_to_the_store_are_counted_by_operation_and_result(tmp_path: Path) -> None:
    metrics = Metrics()
    directory = DirectoryStore(tmp_path, link_secret, timedelta(minutes=15))
    store = metrics.measured(directory)
    await store.create()
    name = "1/2/00000000-0000-0000-0000-000000000000.ndjson.gz"
    async with store.upload(name, part_size=1, filename="f", metadata={}) as upload:
        await upload.put_part(1, [b"x"])
        assert [each.upload_id async for each in store.unfinished_uploads()] == [upload.upload_id]
        await upload.complete()
    assert [each.object_name async for each in store.objects()] == [name]
    await store.link(name, filename="f", origin="http://a.test")
    await store.delete(name)
    await store.probe()
    text = (await metrics.text()).decode()
    operations = "create begin_upload put_part complete_upload list_objects list_uploads delete link probe"
    for operation in operations.split():
        assert value(text, "store_call_duration_seconds_count", operation=operation, result="ok") == 1, operation


class Refusing(DirectoryStore):
    """A store that refuses a deletion, hangs in a probe, and lists for a while."""

    async def delete(self, object_name: str) -> None:
        raise StorageRefused

    async def probe(self) -> None:
        await asyncio.Event().wait()

    async def create(self) -> None:
        raise RuntimeError


async def test_a_call_to_the_store_that_fails_has_the_error_as_its_result(tmp_path: Path) -> None:
    metrics = Metrics()
    store = metrics.measured(Refusing(tmp_path, link_secret, SECOND))
    with pytest.raises(StorageRefused):
        await store.delete("a")
    with pytest.raises(RuntimeError):
        await store.create()
    probing = asyncio.create_task(store.probe())
    await asyncio.sleep(0)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    text = (await metrics.text()).decode()
    for operation, result in (("delete", "storage_refused"), ("create", "error"), ("probe", "cancelled")):
        assert value(text, "store_call_duration_seconds_count", operation=operation, result=result) == 1


async def test_methods_and_addresses_that_a_client_invents_make_no_series_of_their_own() -> None:
    metrics = Metrics()
    for number in range(3):
        metrics.count_response(None, f"INVENTED{number}", 405, 0.1, None)
    metrics.count_response("/a/{id}", "GET", 429, 0.1, "get-export")
    text = (await metrics.text()).decode()
    assert value(text, "http_requests_total", route="none", method="other", status="405") == 3
    assert value(text, "rate_limit_refusals_total", bucket="get-export") == 1
    assert "INVENTED" not in text


# Figures ---------------------------------------------------------------------------------------------------------------


class Source:
    """A database that may be down or hang."""

    def __init__(self) -> None:
        self.reads = 0
        self.down = False
        self.responds = asyncio.Event()
        self.responds.set()

    async def read(self) -> int:
        """The number of this reading."""
        self.reads += 1
        number = self.reads
        await self.responds.wait()
        if self.down:
            raise DatabaseUnavailable
        return number


@pytest.fixture
async def source() -> Source:
    """A database that works."""
    return Source()


async def test_figures_are_read_once_however_often_they_are_asked_for(source: Source) -> None:
    figures = LastKnown(source.read, every=timedelta(minutes=1))
    known = await asyncio.gather(*(figures.get() for _ in range(20)))
    assert {each.value for each in known} == {1}
    assert (await figures.get()).value == source.reads == 1


async def test_a_slow_reading_is_repeated_less_often(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_known, "_SHARE", 1e-9)
    figures = LastKnown(source.read, every=timedelta(0))
    await figures.get()
    assert (await figures.get()).value == 1


async def test_figures_keep_their_last_value_and_its_age_while_the_database_is_down(source: Source) -> None:
    figures = LastKnown(source.read, every=timedelta(0))
    assert (await figures.get()).error is None
    source.down = True
    await asyncio.sleep(0.02)
    known = await figures.get()
    assert (known.value, known.error) == (1, DatabaseUnavailable.message)
    assert known.age >= 0.02
    source.down = False
    known = await figures.get()
    assert (known.value, known.error) == (3, None)
    assert known.age < 0.02


async def test_a_database_that_hangs_delays_nobody_for_longer_than_the_patience(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(last_known, "_PATIENCE", timedelta(seconds=0.01))
    figures = LastKnown(source.read, every=timedelta(0))
    await figures.get()
    source.responds.clear()
    async with asyncio.timeout(10):
        await figures.get()
        await asyncio.sleep(0.02)
        known = await figures.get()
    assert (known.value, known.error) == (1, "The database does not respond.")
    assert source.reads == 2
    await figures.stop()

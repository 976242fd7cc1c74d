"""Several processes that share one database and one store."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from sql import migrations
from tests.support.calls import EXPORTS, call
from tests.support.calls import create_with_tokens as create
from tests.support.contacts import WHOLE_RANGE, Tenant, add_contacts, tenant
from tests.support.export_checks import blocked_reads, outcomes, unexpected_errors
from tests.support.jobs import connect
from tests.support.program import Program, running, started
from tests.support.stores import StoreUnderTest
from tests.support.waiting import until_ended, until_row

pytestmark = pytest.mark.long

REPLICAS = 3
SPACES = 3
SPACE_SLOTS = 2
ACCEPTED = 4
"""Exports of each Space that the rate limit allows."""


@asynccontextmanager
async def replicas(settings: dict[str, str]) -> AsyncIterator[list[Program]]:
    """Start these processes at the same time and wait until they are ready."""
    async with AsyncExitStack() as stack:
        programs = [await stack.enter_async_context(started(settings)) for _ in range(REPLICAS)]
        for program in programs:
            await program.listening()
            await program.ready()
        yield programs


async def test_replicas_started_together_on_an_empty_database_migrate_it_once_and_share_the_work(
    empty_database_url: str, files: StoreUnderTest
) -> None:
    settings = {"DATABASE_URL": empty_database_url, "EXPORT_SLOTS": "1", "SPACE_SLOTS": "3", **files.settings}
    async with replicas(settings) as programs, connect(empty_database_url) as connection:
        applied = Counter(line["migration"] for each in programs for line in each.events("migration_applied"))
        assert set(applied.values()) == {1}
        assert len(applied) == len(migrations("main")) + len(migrations("contacts"))
        space = await tenant(empty_database_url)
        async with blocked_reads(empty_database_url):
            for program in programs:
                await create(program, space)
            held = "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(DISTINCT worker) = 3"
            await until_row(connection, held)
        for export_id in range(1, REPLICAS + 1):
            row = await until_ended(connection, export_id)
            assert (row["status"], row["attempts"]) == ("completed", 1)
        assert [each for program in programs for each in unexpected_errors(program)] == []


async def test_a_rolling_restart_uses_up_no_attempt_and_keeps_limits_exact(
    database_url: str, connection: asyncpg.Connection, files: StoreUnderTest
) -> None:
    await log_running(connection)
    spaces = [await tenant(database_url) for _ in range(SPACES)]
    for space in spaces:
        await add_contacts(connection, space.space_id, 100)
    settings = {
        "DATABASE_URL": database_url,
        "EXPORT_SLOTS": "4",
        "SPACE_SLOTS": str(SPACE_SLOTS),
        "RATE_LIMIT_CREATE": f"{ACCEPTED}/hour",
        "GRACE_SECONDS": "0.2",
        **files.settings,
    }
    async with AsyncExitStack() as stack, replicas(settings) as old:
        async with blocked_reads(database_url):
            accepted = await ask(old, spaces)
            new: list[Program] = []
            for program in old:
                assert await program.end(signal.SIGTERM) == 0
                new.append(await stack.enter_async_context(running(settings)))
                refused = await ask(new, spaces)
                assert [export_ids for export_ids in refused.values() if export_ids] == []
            all_slots = "SELECT 1 FROM export_jobs WHERE status = 'processing' HAVING count(*) = $1"
            await until_row(connection, all_slots, SPACES * SPACE_SLOTS)
        assert {space_id: len(export_ids) for space_id, export_ids in accepted.items()} == {
            space.space_id: ACCEPTED for space in spaces
        }
        for export_ids in accepted.values():
            for export_id in export_ids:
                row = await until_ended(connection, export_id)
                assert (row["status"], row["attempts"], row["lost_leases"]) == ("completed", 1, 0)
        ended = Counter(outcome for outcome, _ in await outcomes(connection))
        assert ended["completed"] == SPACES * ACCEPTED
        assert ended["handed_back"] >= SPACES * SPACE_SLOTS
        assert set(ended) == {"completed", "handed_back"}
        assert await connection.fetchval("SELECT max(running) FROM running_log") == SPACE_SLOTS
        assert [each for program in [*old, *new] for each in unexpected_errors(program)] == []
    assert len(await files.objects()) == SPACES * ACCEPTED
    assert await files.uploads() == []


async def ask(programs: list[Program], spaces: list[Tenant]) -> dict[int, list[int]]:
    """Create more exports of every Space at every process than the limit allows; return the accepted ids by Space."""
    accepted: dict[int, list[int]] = {}

    async def ask_once(program: Program, space: Tenant) -> None:
        body = WHOLE_RANGE | {"include_comet_tokens": 1}
        status, reply, retry_after = await call(program, "POST", EXPORTS, space, **body)
        assert status == 202 or (status == 429 and int(retry_after) > 0)
        accepted.setdefault(space.space_id, []).extend([reply["export_id"]] if status == 202 else [])

    calls = [ask_once(program, space) for _ in range(2) for program in programs for space in spaces]
    await asyncio.gather(*calls)
    return accepted


async def log_running(connection: asyncpg.Connection) -> None:
    """Record at every claim how many exports of the Space run then; claims are made one at a time."""
    await connection.execute(
        """
        CREATE TABLE running_log (space_id bigint, running bigint);
        CREATE FUNCTION log_running() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
          INSERT INTO running_log
          SELECT NEW.space_id, count(*) FROM export_jobs WHERE space_id = NEW.space_id AND status = 'processing';
          RETURN NULL;
        END$$;
        CREATE TRIGGER log_running AFTER UPDATE OF status ON export_jobs
          FOR EACH ROW WHEN (NEW.status = 'processing') EXECUTE FUNCTION log_running()
        """
    )

"""Sessions on the contacts that serve one attempt after another."""

from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest

from service.failures import SourceUnavailable
from service.postgres import kept_sessions
from service.postgres import snapshot as snapshot_module
from service.postgres.contact_source import ContactSource
from service.postgres.kept_sessions import KeptSessions
from service.postgres.snapshot import Snapshot
from tests.support.postgres_proxy import EXPORTS, Mode, postgres_proxy
from tests.support.snapshots import FETCH_SECONDS, at_once, claim_on, open_sources, until_closed

_INSERT = "INSERT INTO contacts (space_id, created_at) VALUES ($1, $2)"


@pytest.fixture
async def contacts(database_url: str) -> AsyncIterator[ContactSource]:
    """A source that keeps sessions."""
    async with KeptSessions() as kept:
        yield ContactSource(database_url, timedelta(seconds=FETCH_SECONDS), kept=kept)


async def read(snapshot: Snapshot) -> int:
    """Read everything as an attempt does; return the number of contacts."""
    rows = 0
    async for batch in snapshot.batches(at_once):
        rows += len(batch)
    await snapshot.close()
    return rows


async def read_all(contacts: ContactSource) -> int:
    """The server process of the session that read a snapshot."""
    async with contacts.snapshot(claim_on()) as snapshot:
        await read(snapshot)
        return backend(snapshot)


def backend(snapshot: Snapshot) -> int:
    """The server process of a snapshot."""
    return int(snapshot.session.connection.get_server_pid())


async def test_a_session_that_read_everything_serves_the_next_attempt_with_a_new_snapshot(
    contacts: ContactSource, sql: asyncpg.Connection
) -> None:
    async with contacts.snapshot(claim_on()) as first:
        assert await read(first) == 0
    claim = claim_on()
    await sql.execute(_INSERT, claim.space_id, claim.window.start)
    async with contacts.snapshot(claim) as second:
        assert await read(second) == 1
    assert backend(second) == backend(first)
    assert second.taken_at > first.taken_at


async def test_attempts_at_the_same_time_have_sessions_of_their_own(
    contacts: ContactSource, sql: asyncpg.Connection
) -> None:
    async with contacts.snapshot(claim_on()) as one, contacts.snapshot(claim_on()) as other:
        assert backend(one) != backend(other)
        await read(one)
        await read(other)
    assert {await read_all(contacts), await read_all(contacts)} <= {backend(one), backend(other)}
    assert await open_sources(sql) == 2


async def test_a_session_that_was_not_read_to_the_end_is_not_kept(contacts: ContactSource, sql: asyncpg.Connection) -> None:
    with pytest.raises(ZeroDivisionError):
        async with contacts.snapshot(claim_on()):
            raise ZeroDivisionError
    async with contacts.snapshot(claim_on()):
        pass
    await until_closed(sql)


async def test_a_session_is_kept_for_a_short_time(
    contacts: ContactSource, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sessions, "_IDLE", timedelta(seconds=0.05))
    await read_all(contacts)
    await until_closed(sql)
    await read_all(contacts)


async def test_an_old_session_is_not_kept(
    contacts: ContactSource, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sessions, "_AGE", timedelta(0))
    await read_all(contacts)
    await until_closed(sql)


async def test_nothing_is_kept_after_the_block(database_url: str, sql: asyncpg.Connection) -> None:
    async with KeptSessions() as kept:
        contacts = ContactSource(database_url, timedelta(seconds=FETCH_SECONDS), kept=kept)
        await read_all(contacts)
        assert await open_sources(sql) == 1
    await until_closed(sql)
    await read_all(contacts)
    await until_closed(sql)


async def test_a_kept_session_that_the_server_ended_costs_no_attempt(
    contacts: ContactSource, sql: asyncpg.Connection
) -> None:
    ended = await read_all(contacts)
    await sql.execute("SELECT pg_terminate_backend($1, 5000)", ended)
    assert await read_all(contacts) != ended


async def test_a_kept_session_whose_connection_is_silent_costs_two_seconds_and_no_attempt(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_module, "_KEPT_TIMEOUT", timedelta(seconds=0.2))
    async with postgres_proxy(database_url) as proxy, KeptSessions() as kept:
        contacts = ContactSource(proxy.url, timedelta(seconds=FETCH_SECONDS), kept=kept)
        first = await read_all(contacts)
        for connection in proxy.connections(EXPORTS):
            connection.set_mode(Mode.BLACKHOLE)
        assert await read_all(contacts) != first


async def test_a_changed_address_is_used_at_once(database_url: str, sql: asyncpg.Connection) -> None:
    addresses = [database_url]
    async with KeptSessions() as kept:
        contacts = ContactSource(lambda: addresses[-1], timedelta(seconds=FETCH_SECONDS), kept=kept)
        first = await read_all(contacts)
        addresses.append(f"{database_url}{'&' if '?' in database_url else '?'}tcp_keepalives_idle=7")
        assert await read_all(contacts) != first
        addresses.append("postgresql://nobody@127.0.0.1:1/none")
        with pytest.raises(SourceUnavailable):
            await read_all(contacts)
    await until_closed(sql)


async def test_an_outdated_search_path_is_no_lasting_failure(contacts: ContactSource, sql: asyncpg.Connection) -> None:
    await read_all(contacts)
    await sql.execute("CREATE SCHEMA moved")
    for table in ("contacts", "contact_emails", "comet_tokens"):
        await sql.execute(f"CREATE TABLE moved.{table} (LIKE public.{table} INCLUDING ALL)")
    await sql.execute("DROP TABLE comet_tokens")
    await sql.execute("DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET search_path TO moved', current_database()); END$$")
    with pytest.raises(SourceUnavailable) as failure:
        async with contacts.snapshot(claim_on(tokens=True)) as snapshot:
            await read(snapshot)
    assert not failure.value.permanent
    async with contacts.snapshot(claim_on(tokens=True)) as snapshot:
        assert await read(snapshot) == 0

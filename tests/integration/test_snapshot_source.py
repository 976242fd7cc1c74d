"""Source of snapshots: complete_until, errors, connections that are left, and plans."""

import asyncio
import json
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.embedded.postgres import EmbeddedPostgres
from service.exports.priority import FETCH_ROWS
from service.failures import ExportFailure, SourceData, SourceUnavailable, SourceUnreadable
from service.model import END_OF_TIME, Claim, Window
from service.postgres.extras import read_contacts
from service.postgres.migrate import migrate
from service.postgres.session import APPLICATION_NAME
from service.postgres.snapshot import BATCH_ROWS, FetchSlot
from tests.support.jobs import connect, holding
from tests.support.roles import role
from tests.support.snapshots import (
    FETCH_SECONDS,
    SPACE,
    START,
    at_once,
    batches_of,
    claim_on,
    lines,
    open_sources,
    source,
    taken,
    until_closed,
)
from tests.support.waiting import until, until_row

_SNAPSHOT_OPEN = """
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = $1 AND xact_start IS NOT NULL)"""

ENDLESS = Window(START, END_OF_TIME)
MARGIN = timedelta(seconds=1)


async def add(sql: asyncpg.Connection, count: int) -> None:
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at, email) SELECT $1, $2::timestamptz + interval '1 ms' * n, n"
        " FROM generate_series(1, $3) n",
        SPACE,
        START,
        count,
    )


async def show_instead(sql: asyncpg.Connection, name: str) -> None:
    """Replace the contacts by a view with this expression as the name."""
    await sql.execute(
        "ALTER TABLE contacts RENAME TO people;"
        f"CREATE VIEW contacts AS SELECT id, space_id, created_at, email, {name} AS name, phone, location, merged_into"
        " FROM people"
    )


# Up to when nothing can be missing -----------------------------------------------------------------------------------


async def complete_until(url: str, window: Window = ENDLESS) -> datetime | None:
    return (await taken(url, claim_on(window=window))).complete_until


async def test_without_other_transactions_it_is_complete_until_one_second_before_it(
    database_url: str, sql: asyncpg.Connection
) -> None:
    before = await sql.fetchval("SELECT clock_timestamp()")
    end = await complete_until(database_url)
    assert end is not None
    assert before - MARGIN <= end <= await sql.fetchval("SELECT clock_timestamp()") - MARGIN


async def test_an_open_transaction_limits_it_to_one_second_before_its_start(database_url: str) -> None:
    async with holding(database_url, "SELECT") as writer, holding(database_url, "SELECT"):
        assert await complete_until(database_url) == await writer.fetchval("SELECT now()") - MARGIN


async def test_what_an_open_transaction_creates_lies_after_it(database_url: str, sql: asyncpg.Connection) -> None:
    async with connect(database_url) as writer:
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute("INSERT INTO contacts (space_id) VALUES ($1)", SPACE)
        end = await complete_until(database_url)
        assert await lines(database_url, claim_on(window=ENDLESS)) == []
        await transaction.commit()
    assert end is not None
    assert await sql.fetchval("SELECT created_at FROM contacts") > end


async def test_our_own_snapshots_do_not_limit_it(database_url: str) -> None:
    async with source(database_url).snapshot(claim_on()) as first:
        end = await complete_until(database_url)
    assert end is not None
    assert end > first.taken_at - MARGIN


async def test_a_transaction_on_another_database_does_not_limit_it(database_url: str, postgres_server: str) -> None:
    async with holding(postgres_server, "SELECT") as elsewhere:
        end = await complete_until(database_url)
        assert end is not None
        assert end > await elsewhere.fetchval("SELECT now()") - MARGIN


async def test_complete_until_is_never_after_the_end_of_the_window(database_url: str) -> None:
    window = Window(START, START + timedelta(days=1))
    assert await complete_until(database_url, window) == window.end


async def test_complete_until_is_unknown_without_the_right_to_see_sessions(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add(sql, 3)
    async with role(database_url, "SELECT") as reader:
        assert await complete_until(reader) is None
        assert len(await lines(reader, claim_on())) == 3
        await until_closed(sql)
    async with role(database_url, "GRANT pg_read_all_stats TO {}") as reader, holding(database_url, "SELECT") as writer:
        assert await complete_until(reader) == await writer.fetchval("SELECT now()") - MARGIN
        await until_closed(sql)


async def test_complete_until_is_unknown_while_a_prepared_transaction_exists() -> None:
    parameters = {"max_prepared_transactions": "2", "fsync": "off"}
    with (
        tempfile.TemporaryDirectory(prefix="contact-exports-tests-") as directory,
        EmbeddedPostgres(Path(directory, "postgres"), parameters=parameters) as server,
    ):
        await migrate(server.dsn())
        async with connect(server.dsn()) as sql:
            await sql.execute("BEGIN; INSERT INTO contacts (space_id) VALUES (1); PREPARE TRANSACTION 'a'")
            assert await complete_until(server.dsn()) is None
            await sql.execute("COMMIT PREPARED 'a'")
            assert await complete_until(server.dsn()) is not None


def make_standby(directory: Path) -> None:
    """Configure the server with data in this directory to start as a standby."""
    (control,) = directory.rglob("pg_control")
    (control.parent.parent / "standby.signal").touch()


async def test_complete_until_is_unknown_on_a_standby() -> None:
    with tempfile.TemporaryDirectory(prefix="contact-exports-tests-") as directory:
        server = EmbeddedPostgres(Path(directory, "postgres"), parameters={"fsync": "off"})
        with server:
            await migrate(server.dsn())
        make_standby(Path(directory))
        with server:
            assert await complete_until(server.dsn()) is None
            assert await lines(server.dsn(), claim_on(tokens=True, emails=True)) == []


# How it fails --------------------------------------------------------------------------------------------------------


async def failure_of(
    url: str,
    claim: Claim,
    *,
    fetch_timeout: float = FETCH_SECONDS,
    fetch_slot: FetchSlot = at_once,
) -> tuple[ExportFailure, int]:
    """The error of reading all batches, and the number of batches before it."""
    count = 0

    async def consume() -> None:
        nonlocal count
        async with (
            source(url, fetch_timeout=fetch_timeout).snapshot(claim) as snapshot,
            aclosing(snapshot.batches(fetch_slot)) as batches,
        ):
            async for _ in batches:
                count += 1

    with pytest.raises(ExportFailure) as caught:
        await consume()
    return caught.value, count


async def test_an_unreachable_database_makes_the_source_unavailable() -> None:
    failure, _ = await failure_of("postgresql://nobody@127.0.0.1:1/nothing", claim_on())
    assert isinstance(failure, SourceUnavailable)
    assert "contacts database" in (failure.detail or "")


async def test_a_dropped_relation_is_named_and_ends_the_export(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 1)
    await sql.execute("DROP TABLE comet_tokens")
    failure, _ = await failure_of(database_url, claim_on(tokens=True))
    assert isinstance(failure, SourceUnreadable)
    assert failure.permanent
    assert failure.detail == "The contacts cannot be read: comet_tokens is missing."
    assert len(await lines(database_url, claim_on())) == 1
    await until_closed(sql)


async def test_an_unreadable_contact_is_a_data_error_that_does_not_contain_its_values(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add(sql, 2 * FETCH_ROWS)
    await sql.execute("UPDATE contacts SET location = 'a secret' WHERE id = $1", FETCH_ROWS + 10)
    await show_instead(sql, "(location::int)::text")
    failure, batches = await failure_of(database_url, claim_on())
    assert isinstance(failure, SourceData)
    assert failure.permanent
    assert batches > 0
    assert "22P02" in (failure.detail or "")
    assert "secret" not in str(failure)
    await until_closed(sql)


async def test_text_that_is_no_utf_8_is_bad_data(postgres_server: str) -> None:
    name = f"contact_exports_test_{secrets.token_hex(8)}"
    url = urlsplit(postgres_server)._replace(path=f"/{name}").geturl()
    async with connect(postgres_server) as owner:
        await owner.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'")
        try:
            await migrate(url)
            async with connect(url) as sql:
                await add(sql, 1)
                await sql.execute(r"UPDATE contacts SET email = E'caf\xe9'")
            failure, _ = await failure_of(url, claim_on())
        finally:
            await owner.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert isinstance(failure, SourceData)


async def test_a_connection_that_breaks_while_reading_makes_the_source_unavailable(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add(sql, 9 * FETCH_ROWS)
    async with batches_of(database_url, claim_on()) as batches:
        await anext(batches)
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name ~ 'export$' AND datname = current_database()"
        )
        with pytest.raises(SourceUnavailable):
            _ = [batch async for batch in batches]
    await until_closed(sql)


async def test_a_read_that_takes_too_long_makes_the_source_unavailable(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 1)
    await show_instead(sql, "pg_sleep(3600)::text")
    in_slot: list[Exception] = []

    @asynccontextmanager
    async def fetch_slot() -> AsyncIterator[int]:
        try:
            yield FETCH_ROWS
        except Exception as error:
            in_slot.append(error)
            raise

    failure, _ = await failure_of(database_url, claim_on(), fetch_timeout=0.3, fetch_slot=fetch_slot)
    assert isinstance(failure, SourceUnavailable)
    assert len(in_slot) == 1
    await until_closed(sql)


# What it leaves behind -----------------------------------------------------------------------------------------------


async def test_no_connection_is_left_after_everything_was_read(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 2 * BATCH_ROWS)
    async with batches_of(database_url, claim_on()) as batches:
        await anext(batches)
        assert await open_sources(sql) == 1
        _ = [batch async for batch in batches]
    await until_closed(sql)


async def test_a_snapshot_can_be_closed_early(database_url: str, sql: asyncpg.Connection) -> None:
    async with source(database_url).snapshot(claim_on()) as snapshot:
        await snapshot.close()
        assert not await sql.fetchval(_SNAPSHOT_OPEN, APPLICATION_NAME)
        await snapshot.close()
    await until_closed(sql)


async def test_no_connection_is_left_when_the_consumer_stops_early(database_url: str, sql: asyncpg.Connection) -> None:
    await add(sql, 5 * BATCH_ROWS)

    async def consume() -> None:
        async with batches_of(database_url, claim_on()) as batches:
            await anext(batches)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await until_closed(sql)


@pytest.mark.parametrize("read", [0, 1])
async def test_no_connection_is_left_after_a_cancellation(database_url: str, sql: asyncpg.Connection, read: int) -> None:
    await add(sql, 5 * BATCH_ROWS)
    reached = asyncio.Event()

    async def consume() -> None:
        async with batches_of(database_url, claim_on()) as batches:
            for _ in range(read):
                await anext(batches)
            reached.set()
            await asyncio.get_running_loop().create_future()

    await assert_cancelling_closes(sql, asyncio.create_task(consume()), reached.wait)


async def test_no_connection_is_left_after_a_cancellation_while_the_server_is_busy(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await add(sql, 1)
    await show_instead(sql, "pg_sleep(3600)::text")

    async def busy() -> None:
        await until_row(sql, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()")

    await assert_cancelling_closes(sql, asyncio.create_task(lines(database_url, claim_on())), busy)


async def assert_cancelling_closes(sql: asyncpg.Connection, task: "asyncio.Task[Any]", reached: Callable[[], Any]) -> None:
    """Cancelled when `reached` returns, the task ends immediately, and the server closes the connection soon after."""
    await reached()
    assert await open_sources(sql) == 1
    task.cancel()
    async with asyncio.timeout(2):
        await asyncio.wait({task})
    assert task.cancelled()
    await until_closed(sql)


# Cost ----------------------------------------------------------------------------------------------------------------


async def plan_of(sql: asyncpg.Connection, text: str, *arguments: object) -> list[dict[str, Any]]:
    """The nodes of the plan of a statement, the outermost first."""
    found: list[dict[str, Any]] = []

    def walk(node: dict[str, Any]) -> None:
        found.append(node)
        for child in node.get("Plans", []):
            walk(child)

    plan = await sql.fetchval("EXPLAIN (FORMAT JSON) " + text, *arguments)
    walk(json.loads(plan)[0]["Plan"])
    return found


async def _all_visible(sql: asyncpg.Connection) -> bool:
    """Vacuum. False if the snapshot of another session, such as an automatic ANALYZE, prevented marking all pages."""
    await sql.execute("VACUUM ANALYZE contacts, contact_emails, comet_tokens")
    tables = "'contacts', 'contact_emails', 'comet_tokens'"
    query = f"SELECT every(relallvisible = relpages) FROM pg_class WHERE relname IN ({tables})"
    return bool(await sql.fetchval(query))


async def test_contacts_are_read_by_an_index_and_extras_by_index_only_scans(
    sql: asyncpg.Connection,
) -> None:
    await sql.execute(
        "INSERT INTO contacts (space_id, created_at) SELECT n % 10, $1::timestamptz + interval '1 minute' * n"
        " FROM generate_series(1, 50000) n",
        START,
    )
    await sql.execute("INSERT INTO contact_emails SELECT id, 'e' || n FROM contacts, generate_series(1, 2) n")
    await sql.execute("INSERT INTO comet_tokens SELECT id, 't' || n FROM contacts, generate_series(1, 4) n")
    await until(lambda: _all_visible(sql))
    for span in ((SPACE, START, END_OF_TIME), (SPACE, START + timedelta(days=3), START + timedelta(days=4))):
        for fragments, wanted in (
            ((), set()),
            (("extra_comet_tokens", "extra_emails_unique"), {"contact_emails_newest", "comet_tokens_newest"}),
            (("extra_comet_tokens",), {"comet_tokens_newest"}),
            (("extra_emails_unique",), {"contact_emails_newest"}),
        ):
            nodes = await plan_of(sql, read_contacts(fragments), *span)
            assert "Seq Scan" not in {node["Node Type"] for node in nodes}
            used = {node["Index Name"]: node["Node Type"] for node in nodes if "Index Name" in node}
            assert used.keys() == {"contacts_of_space"} | wanted
            assert all(used[index] == "Index Only Scan" for index in wanted)

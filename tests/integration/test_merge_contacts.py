"""merge_contacts: the survivor gets all values, also under concurrent merges."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.support.jobs import connect
from tests.support.waiting import until

SPACE = 7
Seen = dict[str, datetime]


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


async def contact(
    sql: asyncpg.Connection,
    *,
    email: str | None = None,
    created: datetime | None = None,
    emails: Seen | None = None,
    tokens: Seen | None = None,
    space: int = SPACE,
) -> int:
    """The id of a new contact with these values."""
    insert = "INSERT INTO contacts (space_id, created_at, email) VALUES ($1, $2, $3) RETURNING id"
    contact_id = int(await sql.fetchval(insert, space, created or day(1), email))
    await sql.executemany(
        "INSERT INTO contact_emails VALUES ($1, $2, $3)", [(contact_id, *each) for each in (emails or {}).items()]
    )
    await sql.executemany(
        "INSERT INTO comet_tokens VALUES ($1, $2, $3)", [(contact_id, *each) for each in (tokens or {}).items()]
    )
    return contact_id


async def merge(sql: asyncpg.Connection, survivor: int, merged: int) -> int:
    return int(await sql.fetchval("SELECT merge_contacts($1, $2)", survivor, merged))


async def emails(sql: asyncpg.Connection, contact_id: int) -> Seen:
    rows = await sql.fetch("SELECT email, last_seen_at FROM contact_emails WHERE contact_id = $1", contact_id)
    return {row["email"]: row["last_seen_at"] for row in rows}


async def tokens(sql: asyncpg.Connection, contact_id: int) -> Seen:
    rows = await sql.fetch("SELECT token, last_seen_at FROM comet_tokens WHERE contact_id = $1", contact_id)
    return {row["token"]: row["last_seen_at"] for row in rows}


async def survivors(sql: asyncpg.Connection) -> dict[int, int | None]:
    """Each contact and its merged_into."""
    return {row["id"]: row["merged_into"] for row in await sql.fetch("SELECT id, merged_into FROM contacts")}


async def everything(sql: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    return [
        await sql.fetch(f"SELECT * FROM {table} ORDER BY {table}")
        for table in ("contacts", "contact_emails", "comet_tokens")
    ]


async def waits(sql: asyncpg.Connection, waiting: asyncpg.Connection, holding: asyncpg.Connection) -> None:
    """Return when one session waits for a lock of the other."""
    pids = waiting.get_server_pid(), holding.get_server_pid()
    await until(lambda: sql.fetchval("SELECT $2 = ANY (pg_blocking_pids($1))", *pids))


async def test_addresses_and_tokens_move_to_the_survivor(sql: asyncpg.Connection) -> None:
    a = await contact(sql, emails={"a@x.test": day(1)}, tokens={"t1": day(1)})
    b = await contact(sql, emails={"b@x.test": day(2), "c@x.test": day(3)}, tokens={"t2": day(2)})
    assert await merge(sql, a, b) == a
    assert await emails(sql, a) == {"a@x.test": day(1), "b@x.test": day(2), "c@x.test": day(3)}
    assert await tokens(sql, a) == {"t1": day(1), "t2": day(2)}
    assert await emails(sql, b) == await tokens(sql, b) == {}
    assert await survivors(sql) == {a: None, b: a}


async def test_the_primary_address_of_the_merged_contact_moves_too(sql: asyncpg.Connection) -> None:
    a = await contact(sql, email="a@x.test", emails={"a@x.test": day(1)})
    b = await contact(sql, email="b@x.test", created=day(4))
    await merge(sql, a, b)
    assert await emails(sql, a) == {"a@x.test": day(1), "b@x.test": day(4)}


async def test_an_address_seen_after_the_contact_was_created_keeps_its_time(sql: asyncpg.Connection) -> None:
    a = await contact(sql)
    b = await contact(sql, email="b@x.test", created=day(4), emails={"b@x.test": day(9)})
    await merge(sql, a, b)
    assert await emails(sql, a) == {"b@x.test": day(9)}


async def test_a_contact_without_values_can_be_merged(sql: asyncpg.Connection) -> None:
    a, b = await contact(sql, emails={"a@x.test": day(1)}), await contact(sql)
    await merge(sql, a, b)
    assert await emails(sql, a) == {"a@x.test": day(1)}


async def test_a_value_of_both_contacts_is_kept_once_with_the_later_time(sql: asyncpg.Connection) -> None:
    a = await contact(sql, emails={"x@x.test": day(5), "y@x.test": day(5)}, tokens={"x": day(5), "y": day(5)})
    b = await contact(sql, emails={"x@x.test": day(3), "y@x.test": day(8)}, tokens={"x": day(3), "y": day(8)})
    await merge(sql, a, b)
    assert await emails(sql, a) == {"x@x.test": day(5), "y@x.test": day(8)}
    assert await tokens(sql, a) == {"x": day(5), "y": day(8)}


async def test_merging_again_changes_nothing(sql: asyncpg.Connection) -> None:
    a = await contact(sql, email="a@x.test", emails={"a@x.test": day(1)}, tokens={"t": day(1)})
    b = await contact(sql, email="b@x.test", emails={"b@x.test": day(2)}, tokens={"t": day(2)})
    await merge(sql, a, b)
    before = await everything(sql)
    assert await merge(sql, a, b) == a
    assert await merge(sql, b, a) == a
    assert await everything(sql) == before


async def test_contacts_merged_into_the_merged_contact_follow(sql: asyncpg.Connection) -> None:
    a, b, c, d = [await contact(sql, emails={f"{name}@x.test": day(1)}) for name in "abcd"]
    await merge(sql, c, d)
    await merge(sql, b, c)
    assert await merge(sql, a, b) == a
    assert await survivors(sql) == {a: None, b: a, c: a, d: a}
    assert await emails(sql, a) == dict.fromkeys(["a@x.test", "b@x.test", "c@x.test", "d@x.test"], day(1))


async def test_instead_of_a_merged_survivor_its_own_survivor_is_used(sql: asyncpg.Connection) -> None:
    a, b, c = [await contact(sql, emails={f"{name}@x.test": day(1)}) for name in "abc"]
    await merge(sql, a, b)
    assert await merge(sql, b, c) == a
    assert await survivors(sql) == {a: None, b: a, c: a}
    assert len(await emails(sql, a)) == 3


async def test_merging_a_merged_contact_merges_its_survivor(sql: asyncpg.Connection) -> None:
    a, b, c = [await contact(sql, emails={f"{name}@x.test": day(1)}) for name in "abc"]
    await merge(sql, b, c)
    assert await merge(sql, a, c) == a
    assert await survivors(sql) == {a: None, b: a, c: a}
    assert len(await emails(sql, a)) == 3


async def test_a_chain_that_was_not_created_by_merges_is_followed_to_its_end(sql: asyncpg.Connection) -> None:
    a, b, c, d = [await contact(sql) for _ in range(4)]
    for merged, survivor in ((c, b), (b, a)):
        await sql.execute("UPDATE contacts SET merged_into = $2 WHERE id = $1", merged, survivor)
    assert await merge(sql, c, d) == a
    assert (await survivors(sql))[d] == a


async def test_contacts_of_two_spaces_are_not_merged(sql: asyncpg.Connection) -> None:
    a, b = await contact(sql), await contact(sql, space=SPACE + 1, emails={"b@x.test": day(1)})
    before = await everything(sql)
    with pytest.raises(asyncpg.CheckViolationError, match="different Spaces"):
        await merge(sql, a, b)
    assert await everything(sql) == before


async def test_a_contact_is_not_merged_into_itself(sql: asyncpg.Connection) -> None:
    a = await contact(sql)
    with pytest.raises(asyncpg.CheckViolationError, match="into itself"):
        await merge(sql, a, a)
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("UPDATE contacts SET merged_into = id")


async def test_an_unknown_contact_is_refused(sql: asyncpg.Connection) -> None:
    a = await contact(sql, emails={"a@x.test": day(1)})
    for survivor, merged in ((a, 999), (999, a), (998, 999)):
        with pytest.raises(asyncpg.NoDataFoundError, match=f"{survivor}, {merged}"):
            await merge(sql, survivor, merged)
    assert await emails(sql, a) == {"a@x.test": day(1)}


# Concurrency ---------------------------------------------------------------------------------------------------------


async def test_concurrent_opposite_merges_neither_deadlock_nor_lose_a_value(
    database_url: str, sql: asyncpg.Connection
) -> None:
    async with connect(database_url) as one, connect(database_url) as other:
        for number in range(30):
            a = await contact(sql, emails={f"a{number}": day(1)}, tokens={f"a{number}": day(1)})
            b = await contact(sql, emails={f"b{number}": day(1)}, tokens={f"b{number}": day(1)})
            first, second = await asyncio.gather(merge(one, a, b), merge(other, b, a))
            assert first == second
            assert {a, b} - {first} == {each for each, into in (await survivors(sql)).items() if into == first}
            assert (await emails(sql, first)).keys() == (await tokens(sql, first)).keys() == {f"a{number}", f"b{number}"}


async def test_a_merge_that_waited_for_the_opposite_one_follows_it(database_url: str, sql: asyncpg.Connection) -> None:
    a, b = await contact(sql, emails={"a": day(1)}), await contact(sql, emails={"b": day(1)})
    async with connect(database_url) as one, connect(database_url) as other:
        transaction = one.transaction()
        await transaction.start()
        assert await merge(one, a, b) == a
        merging = asyncio.create_task(merge(other, b, a))
        await waits(sql, other, one)
        await transaction.commit()
        assert await merging == a
    assert (await emails(sql, a)).keys() == {"a", "b"}


async def test_a_merge_that_waited_continues_from_the_new_survivor(database_url: str, sql: asyncpg.Connection) -> None:
    a, b, c = [await contact(sql, emails={name: day(1)}) for name in "abc"]
    async with connect(database_url) as one, connect(database_url) as other:
        transaction = one.transaction()
        await transaction.start()
        await merge(one, a, b)
        merging = asyncio.create_task(merge(other, b, c))
        await waits(sql, other, one)
        await transaction.commit()
        assert await merging == a
    assert await survivors(sql) == {a: None, b: a, c: a}
    assert (await emails(sql, a)).keys() == {"a", "b", "c"}


async def test_merging_a_merged_contact_does_not_deadlock_with_a_merge_of_its_survivor(
    database_url: str, sql: asyncpg.Connection
) -> None:
    a, b, c, d = [await contact(sql, emails={name: day(1)}) for name in "abcd"]
    await merge(sql, b, c)
    async with connect(database_url) as blocker, connect(database_url) as one, connect(database_url) as other:
        transaction = blocker.transaction()
        await transaction.start()
        # Stops the first merge after it has locked its two contacts, while it moves their addresses.
        await blocker.execute("UPDATE contact_emails SET last_seen_at = now() WHERE contact_id = $1", b)
        first = asyncio.create_task(merge(one, a, b))
        await waits(sql, one, blocker)
        second = asyncio.create_task(merge(other, d, c))
        await waits(sql, other, one)
        await transaction.commit()
        assert [await first, await second] == [a, d]
    assert await survivors(sql) == {a: d, b: d, c: d, d: None}
    assert (await emails(sql, d)).keys() == {"a", "b", "c", "d"}


async def test_many_concurrent_merges_of_the_same_contacts_leave_one_with_all_values(
    database_url: str, sql: asyncpg.Connection
) -> None:
    ids = [await contact(sql, emails={str(number): day(1)}) for number in range(8)]

    async def worker(shift: int) -> None:
        async with connect(database_url) as connection:
            for first, second in zip(ids, ids[shift:] + ids[:shift], strict=True):
                await merge(connection, first, second)

    await asyncio.gather(*(worker(shift) for shift in (1, 3, 5, 7)))
    (survivor,) = [each for each, into in (await survivors(sql)).items() if into is None]
    assert set((await survivors(sql)).values()) == {None, survivor}
    assert (await emails(sql, survivor)).keys() == {str(number) for number in range(8)}

"""Plans that a check asks for while the server must avoid some methods."""

import json
from typing import Any

import asyncpg

from service.postgres.bounded_reads import BoundedReads, OutOfTime
from service.postgres.wanted_indexes import Plan

_METHODS = ("seqscan", "indexscan", "indexonlyscan", "bitmapscan", "sort", "hashjoin", "mergejoin")
WITHOUT_INDEXES = frozenset({"indexscan", "indexonlyscan", "bitmapscan"})


async def plan_without(off: set[str] | frozenset[str], reads: BoundedReads, query: str, *arguments: Any) -> Plan:
    """The plan of a query in which the server avoids these methods. Afterwards the settings are those of an export.

    Raises OutOfTime, the driver's errors.
    """
    connection = reads.connection
    await reads.limit()
    transaction = connection.transaction()
    await transaction.start()
    try:
        for method in _METHODS:
            await connection.execute(f"SET LOCAL enable_{method} = {'off' if method in off else 'on'}")
        text = await connection.fetchval(f"EXPLAIN (VERBOSE, FORMAT JSON) {query}", *arguments)
    except asyncpg.QueryCanceledError as error:
        raise OutOfTime from error
    finally:
        await transaction.rollback()
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan

"""Checks of the three relations that need no row: kinds, columns, rights, row-level security, encoding, poolers."""

import re
from collections.abc import Mapping

import asyncpg

from service.failures import SourceData, SourceUnavailable
from service.postgres.check_spaces import elsewhere
from service.postgres.driver_errors import source_errors
from service.postgres.findings import Column, Finding, Level, Relation, Report
from service.postgres.relations import CONTRACT, Mismatch, mismatches, probe
from sql import statement

KINDS: Mapping[str, str] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "i": "name of an index",
    "I": "name of a partitioned index",
    "S": "sequence",
    "c": "composite type",
    "t": "TOAST table",
}
"""What `pg_class.relkind` says."""
_READABLE = "rpvmf"
_FORBIDDEN = re.compile(r"permission denied for (table|view|foreign table|materialized view|schema) (\S+)")
_FILTERED = re.compile(r'row-level security policy for table "([^"]+)"')
_POOLER = (
    "Give the address of the server itself in CONTACTS_DATABASE_URL (or DATABASE_DIRECT_URL): an export holds a transaction"
    " open and needs settings of its session."
)
_ZONE = (
    "write column AT TIME ZONE 'UTC' (or the zone in which the times are stored, such as 'Europe/Berlin'):"
    " a cast to timestamptz prevents an index"
)


async def check_session(connection: asyncpg.Connection, report: Report) -> str:
    """Check the server and what is in front of it. Returns the quoted name of the service's role."""
    row = await connection.fetchrow(statement("session_facts"))
    assert row is not None
    if row["pid"] != connection.get_server_pid() or row["row_security"] != "off":
        report.fault("pooler", "database", "A connection pooler is between this command and the server.", _POOLER)
    if row["encoding"] == "SQL_ASCII":
        text = (
            "The encoding of the database is SQL_ASCII: an export fails as source_data at the first text that is not UTF-8."
        )
        mend = "Dump the database and restore it into one that was created with ENCODING 'UTF8'."
        report.warn("encoding", "database", text, mend)
    return str(row["role"])


async def check_relation(connection: asyncpg.Connection, relation: str, role: str, report: Report) -> bool:
    """Check kind and rights of a relation. Returns whether its rows can be read."""
    row = await connection.fetchrow(statement("relation_facts"), relation)
    if row is None:
        return await _missing(connection, relation, role, report)
    kind = KINDS.get(row["kind"], row["kind"])
    if row["kind"] not in _READABLE:
        text = f"{relation} is a {kind}, not a table or view."
        report.fault("kind", relation, text, f"Create a view {relation} in a schema that comes earlier in the search_path.")
        return False
    nullable = [not each if row["kind"] in "rp" else None for each in row["not_null"]]
    columns = tuple(map(Column, row["columns"], row["types"], nullable))
    report.relations.append(Relation(relation, row["found_as"], kind, columns))
    if not row["may_read"]:
        text = f"The role {role} has no right to read {relation}."
        report.fault("no_right", relation, text, f"GRANT SELECT ON {row['name']} TO {role};")
        return False
    if row["kind"] == "f":
        text = f"{relation} is a foreign table: its speed depends on the indexes of the other server, which are not checked."
        report.warn("foreign_table", relation, text, "Run this command against the other server as well.")
    if row["kind"] == "m":
        text = f"{relation} is a materialized view: exports show the contacts as they were at its last refresh."
        report.warn("materialized_view", relation, text, f"REFRESH MATERIALIZED VIEW CONCURRENTLY {row['name']}; regularly")
    return True


async def _missing(connection: asyncpg.Connection, relation: str, role: str, report: Report) -> bool:
    found = await connection.fetchrow(statement("relation_elsewhere"), relation)
    if found is None:
        mend = f"CREATE VIEW {relation} AS SELECT … (docs/adopting.md). {elsewhere(report)}".rstrip()
        report.fault("missing", relation, f"{relation} is missing in {report.source} ({report.setting}).", mend)
    elif found["may_use"]:
        text = f"{relation} is in the schema {found['schema']}, which is not in the search_path of the role {role}."
        report.fault("missing", relation, text, f"ALTER ROLE {role} SET search_path = {found['schema']};")
    else:
        text = f"{relation} is in the schema {found['schema']}, which the role {role} may not use."
        report.fault("missing", relation, text, f"GRANT USAGE ON SCHEMA {found['schema']} TO {role};")
    return False


async def check_columns(connection: asyncpg.Connection, report: Report) -> set[str]:
    """Check columns and types. Returns the relations in which something differs from the contract."""
    found = await mismatches(connection)
    for each in found:
        if each.column:
            code = "type" if each.cast_to else "column_missing"
            report.fault(code, f"{each.relation}.{each.column}", f"{each.sentence}.", _mend_column(each))
    return {each.relation for each in found}


def _mend_column(mismatch: Mismatch) -> str:
    column = mismatch.column
    if mismatch.cast_to is None:
        types = CONTRACT[mismatch.relation][column]
        return f"Select it in the view; if you have no such value: NULL::{types[0]} AS {column}"
    if "timestamp without" in mismatch.sentence or " is date " in mismatch.sentence:
        return f"In the view, {_ZONE}."
    return f"In the view: {column}::{mismatch.cast_to} AS {column}; use the same expression in indexes."


async def check_probe(connection: asyncpg.Connection, relation: str, role: str, report: Report) -> bool:
    """Check rights and row-level security beneath a relation without reading a row. Returns whether it can be read."""
    try:
        with source_errors():
            await probe(connection, relation, 0)
    except (SourceUnavailable, SourceData) as error:
        report.findings.append(await _unreadable(connection, error, relation, role))
        return False
    return True


async def _unreadable(
    connection: asyncpg.Connection, error: SourceUnavailable | SourceData, relation: str, role: str
) -> Finding:
    cause = str(error.__cause__)
    code, text, mend = "broken", f"{relation} cannot be read: {error.detail}.", "Correct the view."
    if isinstance(error.__cause__, asyncpg.QueryCanceledError | TimeoutError):
        code, text = "locked", f"{relation} could not be planned in time, probably because of a lock."
        mend = "SELECT * FROM pg_locks WHERE NOT granted; end the transaction that holds the lock, and run the check again."
    elif match := _FORBIDDEN.search(cause):
        kind, name = match.groups()
        full = await _full_name(connection, relation, name)
        right = f"USAGE ON SCHEMA {name}" if kind == "schema" else f"SELECT ON {full}"
        code, text = "no_right", f"{relation} reads the {kind} {name}, which the owner of the view may not read."
        mend = f"GRANT {right} TO the owner of the view {await _full_name(connection, relation, relation)};"
        if name == relation:
            text, mend = f"The role {role} may not read all columns of {relation}.", f"GRANT {right} TO {role};"
    elif match := _FILTERED.search(cause):
        code, text = "row_security", f"Row-level security of the table {match[1]} would hide contacts from the role {role}."
        mend = f"ALTER ROLE {role} BYPASSRLS; or let the owner of the table {match[1]} own the view {relation}."
    return Finding(Level.FAULT, code, relation, text, mend)


async def _full_name(connection: asyncpg.Connection, relation: str, name: str) -> str:
    """The name with its schema of something that a relation reads, or is; the name alone if it is not found."""
    return str(await connection.fetchval(statement("full_name_beneath"), relation, name) or name)

"""The script one writes first: a server-side cursor, the standard library's json and gzip. Run as a process of its own."""

import gzip
import importlib
import json
import sys

_ROWS = 2000


def main(dsn: str, query: str, file: str) -> None:
    """Write the rows of the query into the file."""
    psycopg = importlib.import_module("psycopg")
    rows = importlib.import_module("psycopg.rows")
    with (
        psycopg.connect(dsn) as connection,
        connection.cursor(name="export", row_factory=rows.dict_row) as cursor,
        gzip.open(file, "wb", compresslevel=6) as output,
    ):
        cursor.itersize = _ROWS
        cursor.execute(query)
        for contact in cursor:
            output.write(json.dumps(contact, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

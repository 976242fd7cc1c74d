"""A hand-written script: a server-side cursor, and json and gzip of the standard library. Runs as its own process."""

import gzip
import importlib
import json
import sys

_ROWS = 2000


def main(dsn: str, query: str, file: str) -> None:
    """Write the rows of the query to the file."""
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

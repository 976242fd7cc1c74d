"""A process that owns an embedded Postgres, for tests that kill or interrupt it.

    python -m tests.support.postgres_owner DIRECTORY

Prints one line of JSON with the server's process id, whether the process joined a running server, and its URL. Then it waits
for the end of its standard input. After SIGINT it queries the server and prints the result.
"""

import asyncio
import json
import sys
from pathlib import Path

import asyncpg

from service.embedded.postgres import EmbeddedPostgres


async def _query(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT 'still here'"))
    finally:
        await connection.close()


def _print_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Own the server until standard input ends or SIGINT arrives."""
    with EmbeddedPostgres(Path(sys.argv[1])) as server:
        state = {"pid": server.pid, "joined": server.joined, "url": server.dsn()}
        try:
            _print_line(json.dumps(state))
            sys.stdin.read()
        except KeyboardInterrupt:
            _print_line(asyncio.run(_query(server.dsn())))


if __name__ == "__main__":
    main()

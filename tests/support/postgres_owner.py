"""A process that owns an embedded Postgres, for tests that kill or interrupt it.

    python -m tests.support.postgres_owner DIRECTORY

Prints the server's process id, whether the server was joined, and its URL, as one line of JSON; then waits
for the end of its standard input. Interrupted (SIGINT), it prints a sign of life from the server.
"""

import asyncio
import json
import sys
from pathlib import Path

import asyncpg

from service.embedded.postgres import EmbeddedPostgres


async def _answer(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT 'still here'"))
    finally:
        await connection.close()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Own the server until told otherwise."""
    with EmbeddedPostgres(Path(sys.argv[1])) as server:
        state = {"pid": server.pid, "joined": server.joined, "url": server.dsn()}
        try:
            _say(json.dumps(state))
            sys.stdin.read()
        except KeyboardInterrupt:
            _say(asyncio.run(_answer(server.dsn())))


if __name__ == "__main__":
    main()

"""A bare handler of aiohttp and asyncpg that runs the SELECT of GET /contacts: no key, limit, log or cursor.

A line has {"dsn", "size"}, the database and the connections of the pool. The response is the handler's address.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import orjson
from aiohttp import web

from service.postgres.extras import with_extras
from sql import statement
from tests.bench.measuring_process import measuring_process, respond
from tests.bench.workloads import YEAR

_FRAGMENTS = {"0": (), "1": ("extra_comet_tokens", "extra_emails_unique")}
_QUERIES = {both: with_extras(statement("contacts_before"), names) for both, names in _FRAGMENTS.items()}
_START = (YEAR.end.isoformat(), -(2**63))
"""The position in front of the newest contact."""


@asynccontextmanager
async def bare_handler(dsn: str, *, size: int) -> AsyncIterator[tuple[str, int]]:
    """Run the handler for the block; yields its address and process id. Queries: `space`, `per_page`, `both` (0 or 1)."""
    async with measuring_process("tests.bench.bare") as process:
        yield await process.ask(dsn=dsn, size=size), process.pid


async def main() -> None:
    """Respond to each line until standard input ends."""
    async with AsyncExitStack() as stack:

        async def handle(line: dict[str, Any]) -> str:
            size = line["size"]
            pool = await stack.enter_async_context(asyncpg.create_pool(line["dsn"], min_size=size, max_size=size))
            return await _serve(stack, pool)

        await respond(handle)


async def _serve(stack: AsyncExitStack, pool: "asyncpg.Pool[asyncpg.Record]") -> str:
    async def contacts(request: web.Request) -> web.Response:
        query = request.query
        rows = await pool.fetch(
            _QUERIES[query["both"]], int(query["space"]), YEAR.start, *_START, int(query["per_page"]) + 1
        )
        body = orjson.dumps({"data": [dict(row) for row in rows]})
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/contacts", contacts)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


if __name__ == "__main__":
    asyncio.run(main())

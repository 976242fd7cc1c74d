"""What one export and one webhook take in the database, as docs/running.md says."""

import re

from tests.support import docs
from tests.support.jobs import job_table

EXPORTS = 300
SIZE = "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest($1::text[]) name"


async def test_an_export_and_a_webhook_take_no_more_than_the_page_says(database_url: str) -> None:
    (limits,) = re.findall(r"(\d+) KB . exports in `HISTORY_DAYS`, and (\d+) KB . webhooks", docs.text_of("docs/running.md"))
    async with job_table(database_url) as jobs:
        space_id = await jobs.space()
        await jobs.sql.execute(
            "INSERT INTO webhook_endpoints (space_id, url) VALUES ($1, 'https://example.org/hook')", space_id
        )
        for _ in range(EXPORTS):
            await jobs.queue(space_id)
            assert await jobs.complete(await jobs.claim("host.example.org:12345:abcdef"))
        assert await jobs.sql.fetchval("SELECT count(*) FROM webhook_deliveries") == EXPORTS
        for tables, limit in zip((["export_jobs", "export_attempts"], ["webhook_deliveries"]), limits, strict=True):
            for table in tables:
                await jobs.sql.execute(f"VACUUM FULL {table}")
            size = await jobs.sql.fetchval(SIZE, tables) / EXPORTS
            assert int(limit) * 500 < size < int(limit) * 1000

"""A database with a long history and a long queue, created in seconds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from tests.support import postgres

SPACES = 1_000
FINISHED = 100_000
QUEUED = 10_000
RUNNING = 20
CROWDED_SPACE = 1
"""This Space has a fifth of the finished exports and a tenth of the queued ones."""

# 100 finished exports are old enough to be deleted, 50 files are due to expire and 50 to be deleted.
_JOBS = f"""
WITH made AS (INSERT INTO spaces (id, name, timezone) SELECT n, 'Space ' || n, 'UTC' FROM generate_series(1, {SPACES}) n),
     numbered AS (
  SELECT n, CASE WHEN n <= {FINISHED} AND n % 5 = 0 OR n > {FINISHED} AND n % 10 = 0 THEN {CROWDED_SPACE}
                 ELSE 2 + n % ({SPACES} - 1) END AS space_id,
         CASE WHEN n > {FINISHED} + {RUNNING} THEN 'queued' WHEN n > {FINISHED} THEN 'processing'
              WHEN n % 20 = 1 THEN 'failed' WHEN n % 20 = 2 THEN 'cancelled' WHEN n > {FINISHED} * 0.95 THEN 'completed'
              ELSE 'expired' END AS status,
         now() - CASE WHEN n <= 100 THEN interval '91 days'
                      ELSE interval '80 days' * greatest({FINISHED} - n, 0) / {FINISHED} END AS finished_at
    FROM generate_series(1, {FINISHED} + {RUNNING} + {QUEUED}) n
), stated AS (SELECT *, status IN ('completed', 'expired') AS file, status = 'processing' AS runs FROM numbered)
INSERT INTO export_jobs (id, space_id, status, start_date, end_date, timezone, window_from, window_to,
                         created_at, attempts, max_attempts, run_after,
                         claim_id, worker, lease_until, slot, phase, finished_at,
                         object_name, row_count, file_size, sha256, snapshot_at, file_expires_at,
                         expired_at, file_deleted_at, error_code, error_message)
OVERRIDING SYSTEM VALUE
SELECT n, space_id, status, '2024-01-15', '2024-01-16', 'UTC', '2024-01-15Z', '2024-01-16Z', finished_at,
       (status <> 'queued')::integer, 5, finished_at,
       CASE WHEN runs THEN gen_random_uuid() END, 'a worker',
       CASE WHEN runs THEN now() + CASE WHEN n % 4 = 0 THEN interval '-1 minute' ELSE interval '1 hour' END END,
       CASE WHEN runs THEN n - {FINISHED} END, CASE WHEN runs THEN 'reading' END,
       CASE WHEN n <= {FINISHED} THEN finished_at END,
       CASE WHEN file THEN 'object ' || n END, CASE WHEN file THEN 1 END, CASE WHEN file THEN 1 END,
       CASE WHEN file THEN repeat('a', 64) END, CASE WHEN file THEN finished_at END,
       CASE WHEN file THEN CASE WHEN status = 'completed' AND n > {FINISHED} - 50 THEN now() - interval '1 minute'
                                WHEN status = 'completed' THEN now() + interval '1 day' ELSE finished_at END END,
       CASE WHEN status = 'expired' THEN finished_at END,
       CASE WHEN status = 'expired' AND n % 2000 <> 0 THEN finished_at END,
       CASE WHEN status = 'failed' THEN 'internal' END, CASE WHEN status = 'failed' THEN 'It failed.' END
  FROM stated
"""

# One attempt for each export that is not queued. Every fiftieth failed one has a leftover in the store.
_ATTEMPTS = """
INSERT INTO export_attempts (claim_id, job_id, attempt, worker, object_name, started_at, ended_at, outcome, cleaned_at)
SELECT coalesce(claim_id, gen_random_uuid()), id, 1, 'a worker', 'object ' || id, created_at, finished_at,
       CASE status WHEN 'failed' THEN 'error' WHEN 'cancelled' THEN status WHEN 'processing' THEN NULL ELSE 'completed' END,
       CASE WHEN status <> 'processing' AND NOT (status = 'failed' AND id % 1000 = 1) THEN now() END
  FROM export_jobs WHERE status <> 'queued'
"""


@asynccontextmanager
async def crowded_database(server_url: str, template: str) -> AsyncIterator[str]:
    """The URL of such a database; it is dropped afterwards."""
    async with postgres.database(server_url, template) as url:
        await _fill(url)
        yield url


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        # The triggers allow only new exports that are queued, but the history is inserted in its final state.
        await connection.execute("ALTER TABLE export_jobs DISABLE TRIGGER USER")
        await connection.execute(_JOBS)
        await connection.execute("SELECT setval(pg_get_serial_sequence('export_jobs', 'id'), max(id)) FROM export_jobs")
        await connection.execute(_ATTEMPTS)
        await connection.execute("ALTER TABLE export_jobs ENABLE TRIGGER USER")
        await connection.execute("VACUUM ANALYZE export_jobs, export_attempts, spaces")
    finally:
        await connection.close()

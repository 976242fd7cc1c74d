"""Self-hosted service that exports contacts from Postgres to gzipped NDJSON on S3.

Two flows cross the package: a request (web → exports → postgres), and an export (exports → postgres and storage).
The map of all modules is in docs/design.md; a test compares it with the tree.

Reading order: model → exports/use_cases → exports/runner → exports/attempt → exports/lease → exports/stream/file →
postgres/claims with sql/migrations/main/0001_service.sql → web/routes → process/run.
"""

"""Self-hosted contact exports: one HTTP call in, one gzipped NDJSON file out."""

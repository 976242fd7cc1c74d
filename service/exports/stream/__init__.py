"""Rows to lines, lines to gzip, gzip to parts. Knows neither Postgres nor S3."""

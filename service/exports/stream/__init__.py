"""Turns rows into lines, lines into gzip, and gzip into parts. Knows neither Postgres nor S3."""

"""The crash test: real processes, a real Postgres and a real S3 server, broken at random; then what must hold is checked."""

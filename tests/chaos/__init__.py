"""The crash test: real service processes, a real Postgres and a real S3 server, broken at random; then what must hold is checked."""

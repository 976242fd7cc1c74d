"""The crash test: real processes, a real Postgres and a real S3 server fail at random; then the invariants are checked."""

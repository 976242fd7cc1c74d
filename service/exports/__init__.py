"""Contact exports: the use cases of the API, and the runner that turns queued exports into files."""

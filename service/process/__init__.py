"""The running process: what it opens, how it starts, how it stops, and whether it is healthy."""

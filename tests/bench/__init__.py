"""Benchmark: the speed of the service compared with hand-written exports, and its cost. See `./run bench --help`."""

"""Metrics for Prometheus: what is counted, and who tells. Labels have few values, and none is a name or an id."""

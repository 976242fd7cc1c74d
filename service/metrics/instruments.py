"""The instruments of a process: counters and histograms, in a registry of their own."""

from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX: Final = "contact_exports"

REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds. The last bound is the longest wait that a client may ask for."""
STORE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
EXPORT_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)
ROWS_BUCKETS = (0.0, 100.0, 1e3, 1e4, 1e5, 1e6, 1e7)
BYTES_BUCKETS = tuple(float(2**power) for power in range(10, 37, 4))
RATE_BUCKETS = (1e3, 1e4, 2.5e4, 5e4, 1e5, 2.5e5, 5e5, 1e6)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # not typed in the library


class Instruments:
    """Every counter and histogram. Those with labels are described in docs/operating.md."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, meaning: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", meaning, labels, registry=registry)

        def gauge(name: str, meaning: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", meaning, labels, registry=registry)

        def histogram(name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", meaning, labels, buckets=buckets, registry=registry)

        self.build_info = gauge("build_info", "Versions of the service and of Python; always 1.", "version", "python")

        self.requests = counter("http_requests", "Responses of the API.", "route", "method", "status")
        self.request_seconds = histogram(
            "http_request_duration_seconds",
            "Time from the headers of a request to the first byte of its response.",
            REQUEST_BUCKETS,
            "route",
            "method",
        )
        self.rate_limited = counter("rate_limit_refusals", "Responses with status 429.", "bucket")

        self.created = counter("exports_created", "Exports that were queued by this process.")
        self.ended = counter(
            "exports_ended", "Exports that this process saw end; error_code only if failed.", "status", "error_code"
        )
        self.attempts_started = counter("attempts_started", "Claims of exports by this process.")
        self.attempts = counter("attempts_ended", "Attempts that ended, by the outcome that was recorded.", "outcome")
        self.claims_lost = counter("claims_lost", "Attempts of this process that stopped because their claim was lost.")
        self.retries = counter("retries", "Attempts that failed and whose export was queued again.", "error_code")
        self.rescues = counter("rescues", "Exports that this process took from a dead worker.", "result")
        self.removed = counter("leftovers_removed", "Leftovers in the store that this process removed.", "kind")
        self.files_deleted = counter("files_deleted", "Files of expired exports that this process deleted.")
        self.rows_forgotten = counter("exports_forgotten", "Rows of exports that were deleted after the history.")

        self.export_rows = histogram("export_rows", "Contacts in a completed export.", ROWS_BUCKETS)
        self.export_bytes = histogram("export_bytes", "Compressed bytes of a completed export.", BYTES_BUCKETS)
        self.export_seconds = histogram(
            "export_duration_seconds", "Duration of the attempt that completed an export.", EXPORT_BUCKETS
        )
        self.export_rate = histogram("export_rows_per_second", "Contacts per second of a completed export.", RATE_BUCKETS)

        self.webhooks = counter("webhook_attempts", "Requests to endpoints of webhooks by this process.", "result")
        self.webhook_seconds = histogram(
            "webhook_duration_seconds", "Requests to endpoints that accepted the webhook.", STORE_BUCKETS
        )

        self.store_seconds = histogram(
            "store_call_duration_seconds", "Calls to the object store.", STORE_BUCKETS, "operation", "result"
        )
        self.pool_wait_seconds = histogram(
            "pool_wait_seconds", "Time until a database connection was obtained.", WAIT_BUCKETS, "pool"
        )
        self.pool_connections = gauge("pool_connections", "Open database connections.", "pool", "state")
        self.pool_size = gauge("pool_size", "Most database connections of the pool.", "pool")
        self.loop_lag_seconds = histogram(
            "event_loop_lag_seconds", "How late the event loop returned to a task that slept.", LAG_BUCKETS
        )
        self.running = gauge("attempts_running", "Attempts that run in this process.", "phase")
        self.slots = gauge("export_slots", "Exports that this process may run at once (EXPORT_SLOTS).")

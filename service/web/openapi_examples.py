"""Examples for the OpenAPI document, by operation id. Tests validate them and send the requests to a real site."""

from collections.abc import Mapping
from typing import Any

from service.errors import Unauthenticated

BODIES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "createExport": {
        "One day": {"start_date": "2024-01-15 00:00:00", "end_date": "2024-01-15 23:59:59"},
        "One month with all extras": {
            "start_date": "2024-03-01 00:00:00",
            "end_date": "2024-03-31 23:59:59",
            "include_comet_tokens": 1,
            "include_all_emails": 1,
        },
    },
}
"""Bodies of requests, by operation and title."""

_QUEUED = {"export_id": 123, "status": "queued"}
_WINDOW = {"from": "2024-01-15T00:00:00Z", "to": "2024-01-16T00:00:00Z", "timezone": "UTC"}
_COMPLETED = {
    "export_id": 123,
    "status": "completed",
    "created_at": "2024-01-16T09:30:00Z",
    "completed_at": "2024-01-16T09:30:15Z",
    "window": _WINDOW,
    "row_count": 48210,
    "file_size": 3145728,
    "sha256": "ab" * 32,
    "snapshot_at": "2024-01-16T09:30:01Z",
    "complete_until": "2024-01-16T09:30:01Z",
    "file_expires_at": "2024-01-17T09:30:15Z",
}
_LINK = {"download_url": "https://exports.example/files/…", "expires_at": "2024-01-16T09:45:15Z"}
_PROCESSING = {
    "export_id": 123,
    "status": "processing",
    "created_at": "2024-01-16T09:30:00Z",
    "message": "Export is being processed. Please check back in a few minutes.",
    "window": _WINDOW,
    "progress": {"rows": 20000, "rows_estimated": 48000},
}
_CANCELLED = {
    "export_id": 123,
    "status": "cancelled",
    "created_at": "2024-01-16T09:30:00Z",
    "message": "The export was cancelled.",
    "window": _WINDOW,
}

RESPONSES: Mapping[str, Mapping[int, Mapping[str, Any]]] = {
    "createExport": {202: {"Queued": _QUEUED}},
    "getExport": {200: {"Processing": _PROCESSING, "Completed": {**_COMPLETED, **_LINK}}},
    "cancelExport": {202: {"Cancelled": _CANCELLED}},
    "listExports": {
        200: {
            "The only page": {
                "data": [_COMPLETED],
                "path": "https://exports.example/public-api/v1/contacts/exports",
                "per_page": 200,
                "next_cursor": None,
                "next_page_url": None,
                "prev_cursor": None,
                "prev_page_url": None,
            }
        }
    },
    "getLiveness": {200: {"Alive": {"status": "ok"}}},
    "getReadiness": {200: {"Ready": {"checks": {"database": "ok", "storage": "ok", "schema": "ok"}}}},
}
"""Bodies of responses, by operation, status and title."""

ERRORS: Mapping[int, Mapping[str, Any]] = {
    401: {"Without a valid key": {"message": Unauthenticated.message}},
}
"""Bodies of errors that look alike in every operation, by status and title."""

"""How a run ended, for scripts and in words."""

from typing import Any

from service.client import Export, Received
from service.commands.export.order import Order
from service.model import ExportStatus


def summary(order: Order, export: Export, received: Received, new_rows: int, seconds: float) -> dict[str, Any]:
    """The object of `--json` for a run that succeeded. `file_size` and `sha256` are of the service's file."""
    assert export.file is not None
    return {
        "export_id": export.export_id,
        "path": str(order.target) if order.target else None,
        "form": order.form,
        "rows": export.file.row_count,
        "new_rows": new_rows,
        "file_size": export.file.size,
        "sha256": export.file.sha256,
        "window": {"from": export.window.start, "to": export.window.end, "timezone": export.timezone},
        "snapshot_at": export.snapshot_at,
        "complete_until": export.complete_until,
        "resumed": received.resumed,
        "fresh_links": received.fresh_links,
        "seconds": round(seconds, 3),
        "exit_code": 0,
    }


def in_words(result: dict[str, Any]) -> str:
    """The sentence for a person about a summary."""
    repeated = result["rows"] - result["new_rows"]
    return (
        f"{result['path'] or 'Standard output'}: {result['new_rows']:,} contacts"
        f"{f' without {repeated:,} repeated ones' if repeated else ''} from a file of {result['file_size']:,} bytes in"
        f" {result['seconds']:.1f} s; size, rows and SHA-256 verified"
        f"{_times(', connection resumed', result['resumed'])}{_times(', link renewed', result['fresh_links'])}."
    )


def without_file(export: Export) -> str:
    """The sentence about an export that ended without a file."""
    name = f"Export {export.export_id}"
    match export.status:
        case ExportStatus.FAILED:
            return f"{name} failed: {export.message} ({export.error_code})"
        case ExportStatus.CANCELLED:
            return f"{name} was cancelled by somebody else."
        case _:
            return f"{name} is {export.status}: {export.message}"


def _times(what: str, count: int) -> str:
    match count:
        case 0:
            return ""
        case 1:
            return f"{what} once"
        case _:
            return f"{what} {count} times"

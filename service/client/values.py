"""An export as the API shows it. All times are UTC."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from service.client.errors import NotTheService
from service.model import ExportStatus, StoredFile, Window


@dataclass(frozen=True, slots=True)
class Progress:
    """Rows of a running export. `rows_estimated` is None until the estimate is known, and never below `rows`."""

    rows: int
    rows_estimated: int | None


@dataclass(frozen=True, slots=True)
class Export:
    """An export. `window` is the exported interval in UTC; `timezone` is the Space's, in which the dates were read.

    `progress` is present only while it is processing; `message` unless it is completed; `error_code` only if it failed; the
    fields from `file` on only if it is completed. `download_url` and `link_expires_at` are present only in a status.
    """

    export_id: int
    status: ExportStatus
    created_at: datetime
    window: Window
    timezone: str
    message: str | None = None
    error_code: str | None = None
    progress: Progress | None = None
    file: StoredFile | None = None
    completed_at: datetime | None = None
    snapshot_at: datetime | None = None
    complete_until: datetime | None = None
    file_expires_at: datetime | None = None
    download_url: str | None = None
    link_expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """What was received and verified: size (bytes), SHA-256 (hex) and rows of the compressed file.

    `resumed` counts the broken connections after which the download continued, `fresh_links` the links that replaced one.
    """

    file: StoredFile
    resumed: int
    fresh_links: int


@dataclass(frozen=True, slots=True)
class Download:
    """A downloaded and verified file."""

    path: Path
    received: Received

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.received.file.size

    @property
    def sha256(self) -> str:
        """Checksum of the file, in hex."""
        return self.received.file.sha256

    @property
    def rows(self) -> int:
        """Lines of the file."""
        return self.received.file.row_count


def parse_export(body: Mapping[str, Any]) -> Export:
    """The export in the body of a response. Raises NotTheService."""
    try:
        return _export(body)
    except (KeyError, TypeError, ValueError) as error:
        raise NotTheService(f"The response is not an export as this client knows it ({error!r}); check the URL.") from None


def _export(body: Mapping[str, Any]) -> Export:
    window, progress = body["window"], body.get("progress")
    completed = body["status"] == ExportStatus.COMPLETED
    return Export(
        export_id=int(body["export_id"]),
        status=ExportStatus(body["status"]),
        created_at=datetime.fromisoformat(body["created_at"]),
        window=Window(datetime.fromisoformat(window["from"]), datetime.fromisoformat(window["to"])),
        timezone=str(window["timezone"]),
        message=body.get("message"),
        error_code=body.get("error_code"),
        progress=Progress(progress["rows"], progress["rows_estimated"]) if progress else None,
        file=StoredFile(body["row_count"], body["file_size"], body["sha256"]) if completed else None,
        completed_at=_time(body.get("completed_at")),
        snapshot_at=_time(body.get("snapshot_at")),
        complete_until=_time(body.get("complete_until")),
        file_expires_at=_time(body.get("file_expires_at")),
        download_url=body.get("download_url"),
        link_expires_at=_time(body.get("expires_at")),
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)

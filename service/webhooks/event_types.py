"""The events that webhooks tell; the trigger in sql/migrations/main/0002_webhooks.sql writes them."""

from service.model import ExportStatus

BY_DEFAULT = tuple(
    f"contact.export.{status}" for status in (ExportStatus.COMPLETED, ExportStatus.FAILED, ExportStatus.CANCELLED)
)
"""The events that an endpoint gets unless others are chosen."""
EVENT_TYPES = (*BY_DEFAULT, f"contact.export.{ExportStatus.EXPIRED}")

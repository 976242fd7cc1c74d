"""`--since-last`: exports that follow each other without a gap and without repeated contacts."""

import os
from datetime import UTC, datetime, time, timedelta

from service.client import Export, ExportClient, Refused
from service.commands.export import since_last
from service.commands.export.order import Follow
from service.commands.export.since_last import Ids, Place, StateError
from service.errors import UnknownTimezone
from service.model import ExportRequest, Extras, timezone

_NOT_FOUND = 404
_AHEAD = timedelta(days=2)
"""From now in UTC to the end of the window. The end is later than now in every timezone, and no later than needed, because
the operator may limit the length of a window.
"""


class Following:
    """One export that continues the last one. Reads the state when it is made. Raises StateError."""

    def __init__(self, follow: Follow) -> None:
        self._follow = follow
        self._last = since_last.load(follow.state)
        self._overlap = follow.overlap or timedelta()
        self._ids = Ids()
        self.kept = 0
        if not os.access(follow.state.absolute().parent, os.W_OK):
            raise StateError(f"The directory of {follow.state} does not exist or is not writable.")
        if self._last is None and follow.first is None:
            raise StateError(f"{follow.state} does not exist yet; give --from for the first export.")

    async def check_space(self, client: ExportClient) -> None:
        """Check that the key belongs to the Space of the state: only that Space has the last export. Raises StateError."""
        if self._last is None:
            return
        try:
            found = await client.status(self._last.export_id)
        except Refused as error:
            if error.status != _NOT_FOUND:
                raise
            found = None
        if found is None or found.created_at != self._last.created_at:
            raise StateError(
                f"{self._follow.state} follows another Space: this key has no export {self._last.export_id} of"
                f" {self._last.created_at:%Y-%m-%d %H:%M:%S}. If the Space is right and has only forgotten its old exports,"
                f" remove the file and continue with --from {self._start(self._last.timezone):%Y-%m-%dT%H:%M:%S}."
            )

    def request(self, extras: Extras, zone: str | None = None) -> ExportRequest:
        """The request for everything since the last export; `zone` replaces the timezone of the state. Raises StateError."""
        end = datetime.combine(datetime.now(UTC) + _AHEAD, time(23, 59, 59))
        if self._last is None:
            assert self._follow.first is not None
            return ExportRequest(self._follow.first, end, extras)
        return ExportRequest(self._start(zone or self._last.timezone), end, extras)

    def has_gap(self, export: Export) -> bool:
        """Whether the window of the new export begins too late, because the timezone of the Space has changed."""
        return self._last is not None and export.window.start > self._last.until - self._overlap

    def keep(self, line: bytes) -> bool:
        """Whether a contact is new. Remembers its id for the next export."""
        self._ids.add_line(line)
        new = self._last is None or not self._last.ids.has_line(line)
        self.kept += new
        return new

    def until(self, export: Export) -> datetime:
        """Up to when a completed export is complete. Raises StateError if that is unknown and there is no overlap."""
        known = export.complete_until or (export.snapshot_at if self._follow.overlap is not None else None)
        if known is None:
            raise StateError(
                f"The service does not know up to when export {export.export_id} is complete, so contacts could be missed;"
                " give --overlap with the longest delay after which a contact can still appear."
            )
        return known if self._last is None else max(known, self._last.until)

    def save(self, export: Export) -> None:
        """Store the state after an export that has been delivered. Raises StateError."""
        place = Place(export.export_id, export.created_at, export.timezone, self.until(export), self._ids)
        since_last.save(self._follow.state, place)

    def _start(self, zone: str) -> datetime:
        assert self._last is not None
        try:
            local = (self._last.until - self._overlap).astimezone(timezone(zone))
        except UnknownTimezone:
            raise StateError(f"The timezone {zone} of the Space is unknown on this machine.") from None
        return local.replace(tzinfo=None)

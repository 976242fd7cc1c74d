"""Requeues exports whose worker died or stalled. Every replica runs it; there is no leader."""

from datetime import timedelta

from service import events
from service.failpoints import failpoint
from service.failures import WorkerLost
from service.model import ExportStatus
from service.postgres.claims import Claims


class Rescue:
    """`retry_pause` is the pause after a second lost lease; it grows with each further one."""

    def __init__(self, claims: Claims, *, retry_pause: timedelta) -> None:
        self._claims = claims
        self._retry_pause = retry_pause

    async def run(self) -> bool:
        """Requeue or fail the exports whose lease expired; True if there were any. Raises DatabaseUnavailable."""
        rescued = await self._claims.rescue(pause=self._retry_pause)
        for each in rescued:
            with events.in_logs(each.trace):
                if each.status is ExportStatus.FAILED:
                    detail = f"the lease of worker {each.worker} expired"
                    events.emit(events.ExportFailed(each.export_id, each.claim_id, WorkerLost.code, detail))
                else:
                    events.emit(events.ExportRescued(each.export_id, each.claim_id, each.worker))
        if rescued:
            await failpoint("rescued")
        return bool(rescued)

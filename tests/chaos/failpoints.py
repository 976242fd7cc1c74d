"""The failpoints of a replica, and how often each one triggers."""

import random
from collections.abc import Sequence

from tests.chaos.world import LEASE_SECONDS

_ONCE_AN_ATTEMPT = (
    *("claim_sent", "claimed", "snapshot_open", "upload_created", "upload_recorded", "before_confirm"),
    *("before_complete_upload", "outcome_recorded"),
)
_LAST_STEPS = ("upload_completed", "before_outcome", "outcome_committed")
"""Between the upload of the file and the commit of its row: the claim check in SQL must prevent harm here."""
_OFTEN = (
    *("before_claim", "batch_read", "part_sending", "part_stored", "before_renew", "renew_sent", "renewed"),
    *("rescued", "clean_aborted", "clean_deleted", "cleaned", "expired", "file_deleted", "file_deletion_recorded"),
    "webhook_claim_sent",
)
_WEBHOOK = ("webhook_claimed", "webhook_sending", "webhook_responded", "webhook_result_sent")
_ENDS = ("insert_committed", "shutdown_asked", "shutdown_handing_back")


def specification(rng: random.Random, focus: Sequence[str] = ()) -> str:
    """Return FAILPOINTS for one process: it is killed, stalls for up to 2.5 leases, or loses a response.

    `focus` are additional rules.
    """
    rules = [*focus]
    for names, kill, stall in (
        (_ONCE_AN_ATTEMPT, 0.006, 0.02),
        (_LAST_STEPS, 0.02, 0.06),
        (_OFTEN, 0.0006, 0.002),
        (_ENDS, 0.02, 0.02),
        (_WEBHOOK, 0.004, 0.01),
    ):
        for name in names:
            seconds = rng.uniform(0.5, 2.5) * LEASE_SECONDS
            rules += [f"{name}:kill@{kill}", f"{name}:stall({seconds:.1f})@{stall}"]
    rules += ["webhook_claim_sent:raise@0.005", "webhook_result_sent:raise@0.1"]
    rules += ["outcome_committed:raise@0.2", "claim_sent:raise@0.02", "renew_sent:raise@0.01", "insert_committed:raise@0.1"]
    return ",".join(rules)

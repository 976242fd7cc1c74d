"""Failpoints: named points between two steps, where a test makes the process die, stall or get an error.

They do nothing unless `arm` was called. The wiring calls it for FAILPOINTS, which needs ALLOW_FAILPOINTS=1.

    FAILPOINTS="claimed:kill@0.1,upload_completed:stall(4)#1,*:raise@0.01"

A rule is the name of a point, or `*` for all points; an action; `@` with a probability (default 1); and `#` with a maximum
number of times in this process (default unlimited). `kill` sends SIGKILL to the process. `stall` blocks the whole process
for that many seconds, `delay` only the current task. `raise` raises a connection error. Points whose names end in
`_committed` or `_sent` lie after a commit and before its response is used, so an error there acts as a lost response.
"""

import asyncio
import os
import random
import re
import signal
import time
from dataclasses import dataclass

import structlog

POINTS = frozenset(
    # an attempt
    {"before_claim", "claim_sent", "claimed", "snapshot_open", "upload_created", "upload_recorded", "batch_read"}
    | {"part_sending", "part_stored", "before_confirm", "before_complete_upload", "upload_completed"}
    | {"before_outcome", "outcome_committed", "outcome_recorded"}
    # renewals and periodic tasks
    | {"before_renew", "renew_sent", "renewed", "rescued", "clean_aborted", "clean_deleted", "cleaned"}
    | {"expired", "file_deleted", "file_deletion_recorded"}
    # webhooks
    | {"webhook_claim_sent", "webhook_claimed", "webhook_sending", "webhook_responded", "webhook_result_sent"}
    # the deletion of a Space
    | {"space_closed", "space_exports_ended", "space_file_deleted", "space_exports_deleted"}
    # requests and shutdown
    | {"insert_committed", "shutdown_asked", "shutdown_handing_back"}
)

_RULE = re.compile(
    r"(?P<name>[a-z_]+|\*):(?P<action>kill|raise|(?:stall|delay)\((?P<seconds>\d+(?:\.\d+)?)\))"
    r"(?:@(?P<probability>0(?:\.\d+)?|1(?:\.0+)?))?(?:#(?P<times>\d+))?",
    re.ASCII,
)

log = structlog.get_logger()


class FailpointRaised(ConnectionError):
    """The error of the action `raise`, handled like a lost connection."""


@dataclass(slots=True)
class Rule:
    """One rule. `seconds` is the length of a stall or delay; `times` is how often it may still apply, None if unlimited."""

    name: str
    action: str
    seconds: float
    probability: float
    times: int | None

    def applies(self, name: str) -> bool:
        """Return whether to act at this point now; counts the use."""
        if self.name not in (name, "*") or self.times == 0 or random.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


_armed: list[Rule] = []


def rules(spec: str) -> list[Rule]:
    """Parse a specification. Raises ValueError that names the malformed rule by its number."""
    found = []
    for number, part in enumerate(spec.split(","), 1):
        match = _RULE.fullmatch(part.strip())
        if match is None or match["name"] not in POINTS | {"*"}:
            raise ValueError(f"rule {number} is malformed or names an unknown failpoint (example: claimed:kill@0.5)")
        found.append(
            Rule(
                match["name"],
                match["action"].partition("(")[0],
                float(match["seconds"] or 0),
                float(match["probability"] or 1),
                None if match["times"] is None else int(match["times"]),
            )
        )
    return found


def arm(spec: str) -> None:
    """Replace the rules in effect. Raises ValueError."""
    _armed[:] = rules(spec)


async def failpoint(name: str) -> None:
    """Mark a point. Raises FailpointRaised if an armed rule says so."""
    if _armed:
        await _pass(name)


async def _pass(name: str) -> None:
    for rule in _armed:
        if not rule.applies(name):
            continue
        log.warning("failpoint", point=name, action=rule.action)
        match rule.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stall":
                time.sleep(rule.seconds)  # noqa: ASYNC251 - blocks the event loop, as a stopped process does
            case "delay":
                await asyncio.sleep(rule.seconds)
            case _:
                raise FailpointRaised(f"failpoint {name}")

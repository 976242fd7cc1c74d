"""Named points between two steps of the work, at which a test lets the process die, stand still or meet an error.

Nothing happens at them unless `arm` was called, which the wiring does for FAILPOINTS together with ALLOW_FAILPOINTS=1.

    FAILPOINTS="claimed:kill@0.1,upload_completed:stall(4)#1,*:raise@0.01"

A rule is the name of a point, or `*` for each of them; what happens there; with what probability (default 1); and after
`#` how often at most in the life of this process. `kill` ends the process without a word; `stall` holds all of it for so
many seconds, `delay` only the one who comes by; `raise` is trouble of the connection. A point whose name ends in
`_committed` or `_sent` lies behind a statement's commit and before its answer is believed: an error there is an answer
that was lost.
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
    | {"before_settle", "settle_committed", "settled"}
    # what goes on beside it
    | {"before_renew", "renew_sent", "renewed", "rescued", "clean_aborted", "clean_deleted", "cleaned"}
    | {"expired", "file_deleted", "file_deletion_recorded"}
    # the two ends
    | {"insert_committed", "shutdown_asked", "shutdown_handing_back"}
)

_RULE = re.compile(
    r"(?P<name>[a-z_]+|\*):(?P<action>kill|raise|(?:stall|delay)\((?P<seconds>\d+(?:\.\d+)?)\))"
    r"(?:@(?P<probability>0(?:\.\d+)?|1(?:\.0+)?))?(?:#(?P<times>\d+))?",
    re.ASCII,
)

log = structlog.get_logger()


class FailpointRaised(ConnectionError):
    """The error of a `raise`: to the boundaries it is trouble of the connection."""


@dataclass(slots=True)
class Rule:
    """What happens at a point; `times` is how often it still may, None for ever."""

    name: str
    action: str
    seconds: float
    probability: float
    times: int | None

    def meets(self, name: str) -> bool:
        """Whether it happens at this point, now."""
        if self.name not in (name, "*") or self.times == 0 or random.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


_armed: list[Rule] = []


def rules(spec: str) -> list[Rule]:
    """The rules of a specification. Raises ValueError that says which one is faulty."""
    found = []
    for number, part in enumerate(spec.split(","), 1):
        match = _RULE.fullmatch(part.strip())
        if match is None or match["name"] not in POINTS | {"*"}:
            raise ValueError(f"has a rule, number {number}, that is not like claimed:kill@0.5 or names no point there is")
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
    """Let these rules hold from now on. Raises ValueError."""
    _armed[:] = rules(spec)


async def failpoint(name: str) -> None:
    """A point of this name; see the module. Raises FailpointRaised where a rule wants it."""
    if _armed:
        await _pass(name)


async def _pass(name: str) -> None:
    for rule in _armed:
        if not rule.meets(name):
            continue
        log.warning("failpoint", point=name, action=rule.action)
        match rule.action:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stall":
                time.sleep(rule.seconds)  # noqa: ASYNC251 - the loop stands still, as in a process that is stopped
            case "delay":
                await asyncio.sleep(rule.seconds)
            case _:
                raise FailpointRaised(f"failpoint {name}")

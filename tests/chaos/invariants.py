"""The invariants that hold after all faults have stopped and all exports have ended."""

import asyncio
from collections import Counter

import asyncpg

from service.failures import SourceData, TimedOut, TooLarge
from tests.chaos.consumers import Wish
from tests.chaos.contents import LiveContents, StillContents, WrongContent, lines_of
from tests.chaos.findings import Findings
from tests.chaos.spaces import Spaces
from tests.chaos.world import World
from tests.chaos.writers import Writer

_PERMANENT = (SourceData.code, TimedOut.code, TooLarge.code)
_AT_ONCE = 3
_OUTCOMES = {
    "completed": {"completed"},
    "cancelled": {"cancelled"},
    "failed": {"error", "lost"},
    "queued": {"error", "lost", "handed_back"},
}
"""Allowed outcomes of an attempt, by the state that its export entered at its end."""


class Invariants:
    """Checks on one session; the rows are read once, because nothing changes them any more."""

    def __init__(self, world: World, findings: Findings, session: asyncpg.Connection) -> None:
        self._world = world
        self._findings = findings
        self._session = session
        self._jobs: dict[int, asyncpg.Record] = {}

    async def check(self, wishes: list[Wish], spaces: Spaces, writers: list[Writer]) -> None:
        """Check everything about exports and their files."""
        self._jobs = {row["id"]: row for row in await self._session.fetch("SELECT * FROM export_jobs")}
        self._findings.counts.update(Counter(row["status"] for row in self._jobs.values()))
        for field in ("attempts", "lost_leases", "handed_back"):
            self._findings.counts[field] = sum(row[field] for row in self._jobs.values())
        self._check_wishes(wishes)
        await self._check_history()
        await self._check_attempts()
        await self._check_store()
        await self._check_files(spaces, writers)

    def _check_wishes(self, wishes: list[Wish]) -> None:
        """I5: every accepted export exists, once, in the state that the consumer was told."""
        found = Counter(row["request_id"] for row in self._jobs.values())
        if strange := found.keys() - {wish.name for wish in wishes}:
            self._findings.violation("I5", f"exports that nobody requested: {strange}")
        for wish in wishes:
            most = 1 if wish.key or wish.export_id is not None else wish.sent
            least = 1 if wish.export_id is not None else 0
            if not least <= found[wish.name] <= most:
                self._findings.violation(
                    "I5", f"{wish.name} was sent {wish.sent} times and created {found[wish.name]} exports"
                )
            if wish.key and wish.export_id is None:
                self._findings.violation("I5", f"{wish.name} was never accepted")
            row = self._jobs.get(wish.export_id or 0)
            if wish.export_id is not None and (row is None or row["request_id"] != wish.name):
                self._findings.violation("I5", f"export {wish.export_id}, accepted for {wish.name}, is lost")
            elif row is not None and wish.told - {row["status"]}:
                self._findings.violation(
                    "I5", f"export {wish.export_id} is {row['status']}, but was reported as {wish.told}"
                )
        for row in self._jobs.values():
            if row["status"] in ("queued", "processing"):
                self._findings.violation("I5", f"export {row['id']} did not end: {row['status']}")

    async def _check_history(self) -> None:
        """I8: an export completes at most once, by the claim in its object's name, and ends exactly once."""
        moves = await self._session.fetch("SELECT * FROM chaos.history ORDER BY n")
        ends = Counter(move["job_id"] for move in moves if move["after"] in ("completed", "failed", "cancelled"))
        for job_id, row in self._jobs.items():
            if ends[job_id] != 1:
                self._findings.violation("I8", f"export {job_id} ended {ends[job_id]} times")
            for move in moves:
                if move["job_id"] == job_id and move["after"] == "completed":
                    name = move["object_name"]
                    if str(move["claim_id"]) not in name or name != row["object_name"]:
                        detail = f"by {move['claim_id']} with {name}, but has {row['object_name']}"
                        self._findings.violation("I8", f"export {job_id} was completed {detail}")
        self._findings.counts["moves"] = len(moves)

    async def _check_attempts(self) -> None:
        """I12 and I13: attempt counts, outcomes, and no failure before the last attempt."""
        attempts = await self._session.fetch("SELECT * FROM export_attempts")
        outcomes: dict[int, Counter[str]] = {job_id: Counter() for job_id in self._jobs}
        for attempt in attempts:
            outcomes[attempt["job_id"]][attempt["outcome"]] += 1
        claims = await self._session.fetch(
            "SELECT c.claim_id, h.after FROM chaos.claims c LEFT JOIN chaos.history h"
            " ON h.claim_id = c.claim_id AND h.before = 'processing'"
        )
        became = {claim["claim_id"]: claim["after"] for claim in claims}
        if became.keys() != {attempt["claim_id"] for attempt in attempts} or len(claims) != len(attempts):
            self._findings.violation("I12", f"{len(claims)} claims were made, but there are {len(attempts)} attempts")
        for attempt in attempts:
            after = became.get(attempt["claim_id"])
            if attempt["outcome"] not in _OUTCOMES.get(after or "", ()):
                detail = f"attempt {attempt['claim_id']} of export {attempt['job_id']} ended as {attempt['outcome']}"
                self._findings.violation("I12", f"{detail}, but its export became {after}")
        for job_id, row in self._jobs.items():
            counted = outcomes[job_id]
            made = sum(counted.values()) - counted["handed_back"]
            actual = (row["attempts"], row["lost_leases"], row["handed_back"])
            if actual != (made, counted["lost"], counted["handed_back"]) or row["attempts"] > row["max_attempts"]:
                self._findings.violation("I12", f"export {job_id} counts {actual}, but has the attempts {dict(counted)}")
            early = row["attempts"] < row["max_attempts"] and row["error_code"] not in _PERMANENT
            if row["status"] == "failed" and early:
                detail = f"with {row['error_code']} after {row['attempts']} attempts: {row['error_detail']}"
                self._findings.violation("I13", f"export {job_id} failed {detail}")

    async def _check_store(self) -> None:
        """I9: every object has a row, and every row's object exists."""
        there = await self._world.objects()
        named = {row["object_name"] for row in self._jobs.values() if row["status"] == "completed"}
        for name in sorted(there.keys() - named):
            self._findings.violation("I9", f"{name} is in the store, but belongs to no export")
        for name in sorted(named - there.keys()):
            self._findings.violation("I9", f"{name} belongs to an export, but is not in the store")

    async def _check_files(self, spaces: Spaces, writers: list[Writer]) -> None:
        """I6 and I7: the complete content of every file."""
        still, live = StillContents(self._session), LiveContents(writers)
        turn, one_session = asyncio.Semaphore(_AT_ONCE), asyncio.Lock()

        async def check(row: asyncpg.Record) -> None:
            async with turn:
                try:
                    content, metadata = await self._world.content(row["object_name"])
                    if metadata["claim-id"] not in row["object_name"] or metadata["export-id"] != str(row["id"]):
                        raise WrongContent("I8: the object has another claim")  # noqa: TRY301 - reported below with all others
                    lines = lines_of(content, row)
                    if row["space_id"] == spaces.live.space_id:
                        live.check(row, lines)
                    else:
                        async with one_session:
                            await still.check(row, lines)
                except WrongContent as error:
                    invariant, _, detail = str(error).partition(": ")
                    self._findings.violation(invariant, f"export {row['id']}: {detail}")
                except self._world.client.exceptions.NoSuchKey:
                    pass  # reported by _check_store
                else:
                    self._findings.counts["files checked"] += 1

        await asyncio.gather(*(check(row) for row in self._jobs.values() if row["status"] == "completed"))

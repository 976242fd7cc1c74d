"""After any sequence of calls, with valid and with lost claims, the tables equal the model.

Many more sequences: ./run test -n 0 tests/properties --hypothesis-profile thousands --timeout 0
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from service.failures import ExportFailure, SourceData, StorageUnavailable
from service.model import NewExport
from service.postgres.claims import Claims, Leftover, Progress, Renewal
from service.postgres.export_files import ExportFiles
from service.postgres.export_jobs import ExportJobs
from tests.properties.model import Attempt, Export, Model
from tests.properties.tables import assert_as_modelled, assert_every_attempt_has_its_receipt, make_older
from tests.support.jobs import AT, FILE, REQUEST, WINDOW
from tests.support.one_connection import OneConnection

T = TypeVar("T")
LEASE = timedelta(minutes=10)
PAUSE = timedelta(minutes=2)
LONGEST_PAUSE = timedelta(minutes=15)
LIFETIME = timedelta(hours=24)
LINKS_LIVE = timedelta(minutes=20)
HISTORY = timedelta(days=90)
GRACE = timedelta(minutes=2)
TICKS = [timedelta(minutes=4), timedelta(minutes=11)]
"""None ends within a minute of the end of a lease, because the lease of a claim starts a little after the transaction."""
SPACES = 3
SPACE_SLOTS = 2
WRITES = ("record_upload", "complete", "fail", "try_again", "hand_back")
CHORES = ("rescue", "expire", "delete_files", "clean", "forget")


class Life(RuleBasedStateMachine):
    """One sequence of calls, in a transaction that is rolled back: its clock does not move, and no row remains."""

    def __init__(self, runner: asyncio.Runner, sql: asyncpg.Connection) -> None:
        super().__init__()
        self._runner, self._sql = runner, sql
        database = OneConnection(sql)
        self._jobs, self._files = ExportJobs(database), ExportFiles(database)
        self._claims = Claims(database, renewals=database)
        self.run(sql.execute("BEGIN; SELECT setseed(0)"))
        self.model = Model(self.run(sql.fetchval("SELECT now()")))
        made = "INSERT INTO spaces (name, timezone) SELECT 'a space', 'UTC' FROM generate_series(1, $1) RETURNING id"
        self.spaces = [row["id"] for row in self.run(sql.fetch(made, SPACES))]
        self.model.caps = dict.fromkeys(self.spaces)
        self.exports: list[Export] = []
        self.ended: dict[int, asyncpg.Record] = {}

    def teardown(self) -> None:
        self.run(self._sql.execute("ROLLBACK"))

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def rows(self, table: str) -> list[asyncpg.Record]:
        return self.run(self._sql.fetch(f"SELECT * FROM {table} ORDER BY 1"))

    def written(self, attempt: Attempt, write: Coroutine[Any, Any, object]) -> Export | None:
        """The export if the attempt holds its claim. If not, the write is refused and changes nothing."""
        export = self.model.held_by(attempt)
        before = None if export else (self.rows("export_jobs"), self.rows("export_attempts"))
        assert bool(self.run(write)) is (export is not None)
        assert before is None or before == (self.rows("export_jobs"), self.rows("export_attempts"))
        if export is None:
            assert self.run(self._claims.outcome(attempt.claim)) == (None if attempt.forgotten else attempt.outcome)
        return export

    def held(self) -> list[Attempt]:
        return [attempt for attempt in self.model.attempts.values() if self.model.held_by(attempt)]

    def over(self) -> list[Attempt]:
        return [attempt for attempt in self.model.attempts.values() if not self.model.held_by(attempt)]

    # Consumers and operators -----------------------------------------------------------------------------------------

    @initialize(spaces=st.lists(st.integers(0, SPACES - 1), min_size=2, max_size=6), max_attempts=st.integers(1, 4))
    def begin(self, spaces: list[int], max_attempts: int) -> None:
        for space in spaces:
            self.queue(space, max_attempts)

    @rule(space=st.integers(0, SPACES - 1), max_attempts=st.integers(1, 4))
    def queue(self, space: int, max_attempts: int) -> None:
        new = NewExport(self.spaces[space], REQUEST, "UTC", WINDOW, max_attempts, "")
        job = self.run(self._jobs.insert(new)).job
        self.exports.append(Export(job.export_id, self.spaces[space], max_attempts, run_after=self.model.now))
        self.model.exports[job.export_id] = self.exports[-1]

    @rule(space=st.integers(0, SPACES - 1), cap=st.sampled_from([None, None, 0, 1, 3]))
    def change_cap(self, space: int, cap: int | None) -> None:
        self.model.caps[self.spaces[space]] = cap
        update = "UPDATE spaces SET max_running_exports = $2 WHERE id = $1"
        self.run(self._sql.execute(update, self.spaces[space], cap))

    @rule(data=st.data(), by_hand=st.booleans())
    def end_from_outside(self, data: st.DataObject, by_hand: bool) -> None:
        export = data.draw(st.sampled_from(self.exports))
        self.kick(export) if by_hand else self.cancel(export)

    def cancel(self, export: Export) -> None:
        cancelled = self.run(self._jobs.cancel(export.export_id, None))
        if export.export_id not in self.model.exports:
            assert cancelled is None
            return
        assert cancelled is not None
        assert (cancelled.was, cancelled.claim_id) == (export.status, export.claim_id)
        self.model.cancel(export)
        if cancelled.was == "completed":
            self.ended.pop(export.export_id, None)
        assert cancelled.status == export.status

    def kick(self, export: Export) -> None:
        self.run(self._sql.execute("SELECT kick_export($1)", export.export_id))
        self.model.kick(export)

    # Workers, with a valid or a lost claim ---------------------------------------------------------------------------

    @rule(times=st.integers(1, 3))
    def claim_when_empty(self, times: int) -> None:
        self.claim(times, alone=True)

    @rule(times=st.integers(1, 3))
    def claim_beside_others(self, times: int) -> None:
        self.claim(times, alone=False)

    def claim(self, times: int, *, alone: bool) -> None:
        for _ in range(times):
            wanted = self.model.next(SPACE_SLOTS, alone=alone)
            claim = self.run(self._claims.claim("a worker", lease=LEASE, space_slots=SPACE_SLOTS, alone=alone))
            assert (claim and claim.export_id) == (wanted and wanted.export_id)
            if claim is None or wanted is None:
                return
            assert len(self.model.running(wanted.space_id)) < self.model.cap(wanted.space_id, SPACE_SLOTS)
            assert (claim.alone, claim.attempt) == (wanted.poison, wanted.attempts + 1)
            query = "SELECT lease_until FROM export_jobs WHERE id = $1"
            lease_until = self.run(self._sql.fetchval(query, claim.export_id))
            assert timedelta(0) <= lease_until - LEASE - self.model.now < timedelta(minutes=1)
            self.model.begin(wanted, claim, lease_until)

    @precondition(lambda self: self.model.attempts)
    @rule(data=st.data(), number=st.integers(0, 3))
    def renew(self, data: st.DataObject, number: int) -> None:
        some = data.draw(st.lists(st.sampled_from(list(self.model.attempts.values())), max_size=4))
        progress = {attempt.claim.claim_id: Progress("reading", number, number) for attempt in some}
        answer = self.run(self._claims.renew(progress, lease=LEASE))
        held = {attempt.claim.claim_id: self.model.held_by(attempt) for attempt in some}
        assert answer == {each: Renewal.RENEWED if export else Renewal.LOST for each, export in held.items()}
        for export in held.values():
            if export is not None:
                export.lease_until = self.model.now + LEASE

    @precondition(lambda self: self.held())
    @rule(data=st.data(), writes=st.lists(st.sampled_from(WRITES), min_size=1, max_size=3))
    def write_while_held(self, data: st.DataObject, writes: list[str]) -> None:
        for write in writes:
            if held := self.held():
                getattr(self, write)(data.draw(st.sampled_from(held)))

    @precondition(lambda self: self.over())
    @rule(data=st.data(), writes=st.lists(st.sampled_from(WRITES), min_size=1, max_size=3))
    def write_when_it_is_over(self, data: st.DataObject, writes: list[str]) -> None:
        for write in writes:
            getattr(self, write)(data.draw(st.sampled_from(self.over())))

    def record_upload(self, attempt: Attempt) -> None:
        if self.written(attempt, self._claims.record_upload(attempt.claim, "an upload")):
            attempt.upload_id = "an upload"

    def complete(self, attempt: Attempt) -> None:
        write = self._claims.complete(attempt.claim, FILE, snapshot_at=AT, complete_until=AT, file_lifetime=LIFETIME)
        if export := self.written(attempt, write):
            self.model.end(export, "completed", "completed")
            attempt.cleaned = True
            export.object_name, export.file_expires_at = attempt.claim.object_name, self.model.now + LIFETIME

    def fail(self, attempt: Attempt) -> None:
        self.end_in_error(attempt, SourceData())

    def try_again(self, attempt: Attempt) -> None:
        self.end_in_error(attempt, StorageUnavailable())

    def end_in_error(self, attempt: Attempt, failure: ExportFailure) -> None:
        if export := self.written(attempt, self._claims.end_in_error(attempt.claim, failure, pause=PAUSE)):
            over = failure.permanent or export.attempts == export.max_attempts
            self.model.end(export, "failed" if over else "queued", "error")
            # The delay is random: only its bounds are known.
            pause = min(PAUSE * 2 ** (export.attempts - 1), LONGEST_PAUSE)
            query = "SELECT run_after FROM export_jobs WHERE id = $1"
            export.run_after = self.run(self._sql.fetchval(query, export.export_id))
            assert pause * 0.5 <= export.run_after - self.model.now <= pause * 1.5

    def hand_back(self, attempt: Attempt) -> None:
        if export := self.written(attempt, self._claims.hand_back(attempt.claim)):
            self.model.hand_back(export)

    # Periodic tasks of every replica ---------------------------------------------------------------------------------

    @rule()
    def lose_all(self) -> None:
        self.pass_time(LEASE * 1.1)
        self.rescue()

    @rule(duration=st.sampled_from(TICKS))
    def pass_time(self, duration: timedelta) -> None:
        self.model.pass_time(duration)
        self.run(make_older(self._sql, duration))
        self.ended.clear()

    @rule(chores=st.lists(st.sampled_from(CHORES), min_size=1, max_size=5, unique=True))
    def tidy(self, chores: list[str]) -> None:
        for chore in chores:
            getattr(self, chore)()
        self.ask_what_is_in_use()

    @rule(all_history=st.booleans())
    def outlive(self, all_history: bool) -> None:
        self.pass_time(HISTORY * 1.1 if all_history else LIFETIME * 1.1)
        self.expire()
        self.pass_time(LINKS_LIVE)
        self.delete_files()
        self.forget()
        self.ask_what_is_in_use()

    def ask_what_is_in_use(self) -> None:
        names = [attempt.claim.object_name for attempt in self.model.attempts.values()]
        assert self.run(self._claims.objects_in_use(names)) == self.model.in_use()

    def rescue(self) -> None:
        wanted = self.model.rescue(pause=PAUSE)
        assert {each.claim_id: each.status for each in self.run(self._claims.rescue(pause=PAUSE))} == wanted

    def expire(self) -> None:
        wanted = self.model.expire(links_live=LINKS_LIVE)
        assert sorted(self.run(self._files.expire(links_live=LINKS_LIVE))) == wanted
        for export_id in wanted:
            self.ended.pop(export_id, None)

    def delete_files(self) -> None:
        expired = [each for each in self.model.exports.values() if each.status == "expired" and not each.file_deleted]
        dead = [each for each in expired if each.file_delete_after and each.file_delete_after <= self.model.now]
        assert {each.export_id for each in self.run(self._files.deletable())} == {export.export_id for export in dead}
        for export in dead:
            self.run(self._files.record_deleted(export.export_id))
            export.file_deleted = True
            self.ended.pop(export.export_id, None)

    def clean(self) -> None:
        leftovers = self.run(self._claims.leftovers(grace=GRACE))
        wanted = self.model.leftovers(GRACE)
        assert {each.claim_id for each in leftovers} <= wanted
        assert len(leftovers) == min(20, len(wanted))
        for each in leftovers:
            attempt = self.model.attempts[each.claim_id]
            claim = attempt.claim
            assert each == Leftover(claim.claim_id, claim.export_id, claim.object_name, attempt.upload_id)
            self.run(self._claims.record_cleaned(each))
            attempt.cleaned = True

    def forget(self) -> None:
        old = self.model.old(HISTORY)
        assert self.run(self._files.forget(age=HISTORY)) == len(old)
        for export in old:
            self.model.forget(export)
            self.ended.pop(export.export_id, None)

    # Invariant after every step --------------------------------------------------------------------------------------

    @invariant()
    def everything_is_in_order(self) -> None:
        jobs, attempts = self.rows("export_jobs"), self.rows("export_attempts")
        assert_as_modelled(self.model, jobs, attempts)
        assert_every_attempt_has_its_receipt(jobs, attempts)
        ended = {job["id"]: job for job in jobs if job["finished_at"] is not None}
        assert {export_id: ended.get(export_id) for export_id in self.ended} == self.ended
        self.ended = ended


def test_the_tables_equal_the_model_after_any_sequence_of_calls(database_url: str) -> None:
    with asyncio.Runner() as runner:
        sql = runner.run(asyncpg.connect(database_url))

        class HereAndNow(Life):
            def __init__(self) -> None:
                super().__init__(runner, sql)

        try:
            run_state_machine_as_test(HereAndNow, settings=settings(stateful_step_count=30, deadline=None))
        finally:
            sql.terminate()

"""The database of the contacts: whether it can be read, and the snapshots that attempts read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import structlog

from service.errors import LoginRefused, SchemaMismatch, ServiceError
from service.failures import ExportFailure, SourceSlow, SourceUnavailable, SourceUnreadable
from service.model import Claim
from service.postgres.addresses import Dsn, current
from service.postgres.driver_errors import describe, login_refused, source_errors
from service.postgres.kept_sessions import KeptSessions, Session
from service.postgres.relations import check_readable, check_relations
from service.postgres.session import connect_to_contacts
from service.postgres.snapshot import Snapshot

_CALL_TIMEOUT = timedelta(seconds=10)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ContactSource:
    """The database of the contacts. `fetch_timeout` limits each read on client and server.

    `slack` is subtracted from each snapshot's `complete_until`.
    """

    dsn: Dsn
    fetch_timeout: timedelta
    slack: timedelta = timedelta(0)
    kept: KeptSessions | None = None
    """None: every snapshot has a session of its own."""

    async def check(self) -> None:
        """Raises SchemaMismatch if the relations do not match the contract, SourceUnreadable if they cannot be read.

        Raises LoginRefused for a wrong password or a missing database, else SourceUnavailable.
        """
        try:
            connection = await connect_to_contacts(self.dsn, self.fetch_timeout)
        except SourceUnavailable as error:
            if login_refused(error):
                raise LoginRefused(detail=error.detail) from error
            raise
        try:
            with source_errors():
                async with asyncio.timeout(_CALL_TIMEOUT.total_seconds()):
                    await check_relations(connection)
            await check_readable(connection)
        finally:
            connection.terminate()

    async def fault(self) -> str | None:
        """What a person must fix before contacts can be read, in words for operators; None if nothing is known."""
        try:
            await self.check()
        except (SchemaMismatch, LoginRefused) as error:
            return error.detail or error.message
        except SourceUnreadable as error:
            return error.detail
        except ServiceError:
            return None
        return None

    @asynccontextmanager
    async def snapshot(self, claim: Claim) -> AsyncIterator[Snapshot]:
        """One REPEATABLE READ, READ ONLY transaction for one attempt.

        Raises SourceUnavailable, SourceUnreadable, SourceSlow, SourceData. The session is kept for the next attempt if
        `Snapshot.close` ended the transaction. Otherwise it is terminated, because that needs no response from the server.
        `async with connection.transaction()` would hang in ROLLBACK on a half-open connection.
        """
        try:
            snapshot = await self._kept_snapshot(claim) or await self._new_snapshot(claim)
        except SourceUnreadable as failure:
            raise SourceUnreadable(detail=await self.fault() or failure.detail) from failure
        try:
            yield snapshot
        except SourceUnreadable as failure:
            snapshot.terminate()
            raise await self._unreadable(snapshot, failure) from failure
        except SourceSlow as failure:
            snapshot.terminate()
            raise await self._slow(snapshot, failure) from failure
        finally:
            if snapshot.ended and self.kept is not None:
                self.kept.keep(snapshot.session)
            else:
                snapshot.terminate()

    async def _new_snapshot(self, claim: Claim) -> Snapshot:
        address = current(self.dsn)
        session = Session(await connect_to_contacts(address, self.fetch_timeout), address)
        return await self._begun(session, claim)

    async def _kept_snapshot(self, claim: Claim) -> Snapshot | None:
        """A snapshot in a kept session. None if there is none that works: that is no failure of the attempt."""
        session = None if self.kept is None else self.kept.take(current(self.dsn))
        if session is None:
            return None
        try:
            return await self._begun(session, claim)
        except ExportFailure as failure:
            log.info("kept_session_ended", detail=failure.detail)
            return None

    async def _begun(self, session: Session, claim: Claim) -> Snapshot:
        snapshot = Snapshot(session, claim, fetch_timeout=self.fetch_timeout, slack=self.slack)
        try:
            await snapshot.begin()
        except BaseException:
            snapshot.terminate()
            raise
        return snapshot

    async def _unreadable(self, snapshot: Snapshot, failure: SourceUnreadable) -> SourceUnavailable:
        """The failure with what the check of the relations finds.

        If it finds nothing in a new session, a session with outdated defaults is the reason, and a retry helps.
        """
        fault = await self.fault()
        if fault is None and snapshot.session.reused:
            return SourceUnavailable(detail=failure.detail)
        return SourceUnreadable(detail=fault or failure.detail)

    async def _slow(self, snapshot: Snapshot, failure: SourceSlow) -> SourceUnavailable:
        """The failure with the plan of the query. A database that does not plan it in time is unavailable, not slow."""
        try:
            connection = await connect_to_contacts(self.dsn, self.fetch_timeout)
            try:
                async with asyncio.timeout(_CALL_TIMEOUT.total_seconds()):
                    plan = await snapshot.explain(connection)
            finally:
                connection.terminate()
        except (SourceUnavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            cause = error.detail if isinstance(error, SourceUnavailable) else describe(error)
            return SourceUnavailable(detail=f"{failure.detail}; its plan: {cause}")
        return SourceSlow(detail=f"{failure.detail}; its plan: {plan}", permanent=failure.permanent)

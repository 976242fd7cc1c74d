"""Checks that a file matches its row: its bytes, and its contacts at one moment."""

import hashlib
import json
import zlib
from typing import Any

import asyncpg

from tests.chaos.writers import Person, Write, Writer
from tests.support.contacts import expected_lines

Lines = list[dict[str, Any]]


class WrongContent(Exception):
    """The file does not match; the text starts with the invariant."""


def lines_of(content: bytes, row: asyncpg.Record) -> Lines:
    """Return the lines of a file: one gzip member with the size, checksum and row count of its row."""
    if (len(content), hashlib.sha256(content).hexdigest()) != (row["file_size"], row["sha256"]):
        raise WrongContent("I6: size or checksum differ from the row")
    member = zlib.decompressobj(31)
    try:
        text = member.decompress(content)
        lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
    except (zlib.error, ValueError) as error:
        raise WrongContent(f"I6: {error}") from None
    if not member.eof or member.unused_data or (text and not text.endswith(b"\n")):
        raise WrongContent("I6: not exactly one gzip member of complete lines")
    if len(lines) != row["row_count"]:
        raise WrongContent(f"I6: {len(lines)} lines, but the row count is {row['row_count']}")
    return lines


class StillContents:
    """The expected files of Spaces that do not change; each kind of file is queried once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[Any, ...], Lines] = {}

    async def check(self, row: asyncpg.Record, lines: Lines) -> None:
        """Raise WrongContent unless the file equals the tables."""
        tokens, emails = "comet_tokens" in row["extras"], "emails" in row["extras"]
        kind = (row["space_id"], row["window_from"], row["window_to"], tokens, emails)
        if kind not in self._known:
            self._known[kind] = await expected_lines(
                self._connection, kind[0], start=kind[1], end=kind[2], tokens=tokens, emails=emails
            )
        if lines != self._known[kind]:
            raise WrongContent(f"I7: {len(lines)} lines differ from the {len(self._known[kind])} contacts of the Space")


class LiveContents:
    """The possible files of the live Space: for each writer, its contacts after some number of its transactions."""

    def __init__(self, writers: list[Writer]) -> None:
        self._histories = [writer.writes for writer in writers]
        self._created = {
            contact_id: (person.created_at, contact_id)
            for writes in self._histories
            for write in writes
            for contact_id, person in write.changes.items()
            if person is not None
        }

    def check(self, row: asyncpg.Record, lines: Lines) -> None:
        """Raise WrongContent if a contact is missing, duplicated, of another moment, or could appear too late."""
        found = {line["id"]: line for line in lines}
        if len(found) != len(lines):
            raise WrongContent("I7: a contact is in the file twice")
        if unknown := found.keys() - self._created.keys():
            raise WrongContent(f"I7: contacts {sorted(unknown)} were never committed")
        order = [self._created[line["id"]] for line in lines]
        if order != sorted(order):
            raise WrongContent("I7: the lines are not ordered by creation time")
        for writes in self._histories:
            self._check_writer(row, writes, found)

    def _check_writer(self, row: asyncpg.Record, writes: list[Write], found: dict[int, dict[str, Any]]) -> None:
        own = {contact_id for write in writes for contact_id in write.changes}
        mine = {contact_id: line for contact_id, line in found.items() if contact_id in own}
        certain = sum(write.after <= row["snapshot_at"] for write in writes)
        possible = sum(write.before <= row["finished_at"] for write in writes)
        people: dict[int, Person | None] = {}
        for write in writes[:certain]:
            people |= write.changes
        for seen in range(certain, possible + 1):
            if mine == self._lines(row, people):
                self._check_horizon(row, people, writes[seen:])
                return
            if seen < possible:
                people |= writes[seen].changes
        raise WrongContent(
            f"I7: {len(mine)} contacts of a writer do not match any of its transactions {certain} to {possible}"
        )

    def _lines(self, row: asyncpg.Record, people: dict[int, Person | None]) -> dict[int, dict[str, Any]]:
        tokens, emails = "comet_tokens" in row["extras"], "emails" in row["extras"]
        return {
            contact_id: person.line(tokens=tokens, emails=emails)
            for contact_id, person in people.items()
            if person is not None and row["window_from"] <= person.created_at < row["window_to"]
        }

    def _check_horizon(self, row: asyncpg.Record, seen: dict[int, Person | None], later: list[Write]) -> None:
        """Check that contacts the snapshot did not see were not created before `complete_until`."""
        until = row["complete_until"]
        for write in later if until is not None else ():
            for contact_id, person in write.changes.items():
                new = person is not None and contact_id not in seen
                if new and row["window_from"] <= self._created[contact_id][0] < until:
                    raise WrongContent(f"I7: contact {contact_id} was created before complete_until and committed later")

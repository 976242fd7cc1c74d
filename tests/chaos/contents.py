"""Whether a file is what its row promises: the bytes, and the contacts of one moment."""

import hashlib
import json
import zlib
from typing import Any

import asyncpg

from tests.chaos.writers import Person, Write, Writer
from tests.support.contacts import expected_lines

Lines = list[dict[str, Any]]


class WrongContent(Exception):
    """The file is not what it should be; the text names the invariant first."""


def lines_of(content: bytes, row: asyncpg.Record) -> Lines:
    """The lines of a file that is one whole gzip member of the size, the checksum and the row count promised."""
    if (len(content), hashlib.sha256(content).hexdigest()) != (row["file_size"], row["sha256"]):
        raise WrongContent("I6: size or checksum differ from the row's")
    member = zlib.decompressobj(31)
    try:
        text = member.decompress(content)
        lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
    except (zlib.error, ValueError) as error:
        raise WrongContent(f"I6: {error}") from None
    if not member.eof or member.unused_data or (text and not text.endswith(b"\n")):
        raise WrongContent("I6: not one whole gzip member of whole lines")
    if len(lines) != row["row_count"]:
        raise WrongContent(f"I6: {len(lines)} lines, but a row count of {row['row_count']}")
    return lines


class StillContents:
    """What the files of Spaces hold that nobody writes to; each kind of file is asked for once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[Any, ...], Lines] = {}

    async def check(self, row: asyncpg.Record, lines: Lines) -> None:
        """Raises WrongContent unless the file is equal to what the tables hold."""
        tokens, emails = row["include_comet_tokens"], row["include_all_emails"]
        kind = (row["space_id"], row["window_from"], row["window_to"], tokens, emails)
        if kind not in self._known:
            self._known[kind] = await expected_lines(
                self._connection, kind[0], start=kind[1], end=kind[2], tokens=tokens, emails=emails
            )
        if lines != self._known[kind]:
            raise WrongContent(f"I7: {len(lines)} lines are not the {len(self._known[kind])} contacts of the Space")


class LiveContents:
    """What a file of the live Space may hold: for each writer, everybody as they were after some number of its writes."""

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
        """Raises WrongContent where a contact is missing, doubled, of another moment, or can appear too late."""
        found = {line["id"]: line for line in lines}
        if len(found) != len(lines):
            raise WrongContent("I7: a contact is in the file twice")
        if unknown := found.keys() - self._created.keys():
            raise WrongContent(f"I7: contacts {sorted(unknown)} were never committed")
        order = [self._created[line["id"]] for line in lines]
        if order != sorted(order):
            raise WrongContent("I7: the lines are not in the order of creation")
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
            f"I7: {len(mine)} contacts of a writer are not those after any of its writes {certain} to {possible}"
        )

    def _lines(self, row: asyncpg.Record, people: dict[int, Person | None]) -> dict[int, dict[str, Any]]:
        tokens, emails = row["include_comet_tokens"], row["include_all_emails"]
        return {
            contact_id: person.line(tokens=tokens, emails=emails)
            for contact_id, person in people.items()
            if person is not None and row["window_from"] <= person.created_at < row["window_to"]
        }

    def _check_horizon(self, row: asyncpg.Record, seen: dict[int, Person | None], later: list[Write]) -> None:
        """Whom the snapshot did not see was not created before `complete_until`."""
        until = row["complete_until"]
        for write in later if until is not None else ():
            for contact_id, person in write.changes.items():
                new = person is not None and contact_id not in seen
                if new and row["window_from"] <= self._created[contact_id][0] < until:
                    raise WrongContent(f"I7: contact {contact_id} was created before complete_until and came later")

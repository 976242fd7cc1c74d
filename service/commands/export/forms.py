"""The forms of a downloaded file: what its content becomes on the way to the target."""

import csv
from collections.abc import Callable, Iterable
from io import StringIO
from typing import Protocol

import orjson
from isal import isal_zlib

from service.client.errors import WrongFile
from service.commands.export.order import Form
from service.model import Extra, Extras

_COLUMNS = ("id", "email", "name", "phone", "location")
_GZIP = 31
"""`wbits` for one gzip member."""
_LEVEL = 1
_CUSTOM_FIELDS = b',"custom_fields":'
"""Begins the last value of a line. Inside a JSON string every quote has a backslash before it, and the values before this
one contain only strings, so these bytes occur first at this key.
"""

Keep = Callable[[bytes], bool]
"""Whether a line goes to the target."""


class Converter(Protocol):
    """Turns the content of a file into the bytes of the target."""

    def feed(self, content: bytes) -> bytes:
        """The bytes for further content, which can end inside a line. Raises WrongFile."""

    def end(self) -> bytes:
        """The last bytes. Raises WrongFile if the content ended inside a line."""


def converter(form: Form, extras: Extras, keep: Keep | None) -> Converter | None:
    """The converter for a form; None if the target is the compressed file itself. `keep` selects lines."""
    match form:
        case Form.CSV:
            return _ByLine(_Csv(extras), keep)
        case Form.LINES:
            return _Unchanged() if keep is None else _ByLine(_Ndjson(), keep)
        case Form.GZIP:
            return None if keep is None else _ByLine(_Ndjson(), keep, pack=True)


class _Writer(Protocol):
    """Writes lines in a form."""

    def write(self, lines: Iterable[bytes]) -> bytes:
        """The bytes of lines, which come without their newlines."""

    def end(self) -> bytes:
        """What follows the last line."""


class _Unchanged:
    def feed(self, content: bytes) -> bytes:
        return content

    def end(self) -> bytes:
        return b""


class _ByLine:
    def __init__(self, writer: _Writer, keep: Keep | None, *, pack: bool = False) -> None:
        self._writer = writer
        self._keep = keep
        self._compressor = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP) if pack else None
        self._rest = b""

    def feed(self, content: bytes) -> bytes:
        *lines, self._rest = (self._rest + content).split(b"\n")
        text = self._writer.write(filter(self._keep, lines) if self._keep else lines)
        return self._compressor.compress(text) if self._compressor else text

    def end(self) -> bytes:
        if self._rest:
            raise WrongFile("The last line of the received file has no end.")
        text = self._writer.end()
        return self._compressor.compress(text) + self._compressor.flush() if self._compressor else text


class _Ndjson:
    def write(self, lines: Iterable[bytes]) -> bytes:
        return b"".join(b"%b\n" % line for line in lines)

    def end(self) -> bytes:
        return b""


class _Csv:
    """RFC 4180 in UTF-8: one header line, lines end in CRLF. Null is an empty cell, arrays and objects are JSON text.

    The columns are the keys of the first line; without a line they are those of `extras`.
    """

    def __init__(self, extras: Extras) -> None:
        self._extras = extras
        self._keys: list[str] | None = None
        self._lists: list[int] = []
        self._text = StringIO(newline="")
        self._writer = csv.writer(self._text)

    def write(self, lines: Iterable[bytes]) -> bytes:
        try:
            self._writer.writerows(self._cells(line) for line in lines)
        except (ValueError, KeyError, AttributeError):
            raise WrongFile("A line of the received file is not a contact.") from None
        return self._take()

    def end(self) -> bytes:
        if self._keys is None:
            self._writer.writerow([*_COLUMNS, *self._extras])
        return self._take()

    def _cells(self, line: bytes) -> list[object]:
        # The custom fields are copied, not parsed: a parser would round numbers of many digits.
        line, found, custom_fields = line.partition(_CUSTOM_FIELDS)
        contact = orjson.loads(line + b"}" if found else line)
        if self._keys is None:
            self._keys = list(contact.keys())
            self._lists = [place for place, key in enumerate(self._keys) if isinstance(contact[key], list)]
            self._writer.writerow([*self._keys, *([Extra.CUSTOM_FIELDS] if found else [])])
        values = [contact[key] for key in self._keys]
        for place in self._lists:
            values[place] = orjson.dumps(values[place]).decode()
        if found:
            values.append(custom_fields.removesuffix(b"}").decode())
        return values

    def _take(self) -> bytes:
        written = self._text.getvalue().encode()
        self._text.seek(0)
        self._text.truncate()
        return written

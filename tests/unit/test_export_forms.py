"""The forms of a downloaded file, for any contact and any place at which the content is cut."""

import csv
import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import Extra, WrongFile
from service.client.unpack import Unpacker
from service.commands.export.forms import converter
from service.commands.export.order import Form
from service.exports.stream.lines import encoder
from service.model import Extras

_BASE = ["id", "email", "name", "phone", "location"]
_ALL = (Extra.COMET_TOKENS, Extra.EMAILS, Extra.CUSTOM_FIELDS)
_NASTY = ['"', "\\", ',"custom_fields":', "\r", "\n", "\r\n", ",", "'", "\u2028", "\N{PILE OF POO}", "", "=1+1", "\ufeff"]
texts = st.lists(st.sampled_from(_NASTY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=4).map(
    "".join
)
own_fields = st.dictionaries(texts | st.just("custom_fields"), texts | st.integers() | st.none(), max_size=3)
rows = st.lists(
    st.tuples(
        st.integers(-(2**63), 2**63 - 1),
        *[st.none() | texts] * 4,
        *[st.lists(texts, max_size=3).map(json.dumps)] * 2,
        own_fields.map(json.dumps),
    ),
    max_size=4,
)
cuts = st.integers(1, 50)


def converted(form: Form, extras: Extras, content: bytes, cut: int) -> bytes:
    """Convert content that arrives in pieces of `cut` bytes."""
    convert = converter(form, extras, lambda _: True)
    assert convert is not None
    pieces = [content[start : start + cut] for start in range(0, len(content), cut)]
    return b"".join([*map(convert.feed, pieces), convert.end()])


def cells(line: dict[str, Any]) -> list[str]:
    """The cells of a contact, with JSON text for what is no text."""
    return ["" if value is None else value if isinstance(value, str) else json.dumps(value) for value in line.values()]


@given(rows, cuts)
def test_csv_has_the_values_of_the_lines_and_json_text_for_lists_and_objects(values: list[Any], cut: int) -> None:
    content = encoder(_ALL)(values)
    head, *found = csv.reader(io.StringIO(converted(Form.CSV, _ALL, content, cut).decode(), newline=""))
    assert head == [*_BASE, *_ALL]
    wanted = [json.loads(line) for line in content.split(b"\n")[:-1]]
    assert [row[:5] for row in found] == [cells(line)[:5] for line in wanted]
    assert [[json.loads(cell) for cell in row[5:]] for row in found] == [list(line.values())[5:] for line in wanted]


@given(rows, cuts)
def test_lines_and_packed_lines_are_unchanged(values: list[Any], cut: int) -> None:
    content = encoder(_ALL)(values)
    assert converted(Form.LINES, _ALL, content, cut) == content
    assert gzip.decompress(converted(Form.GZIP, _ALL, content, cut)) == content


def test_numbers_of_many_digits_in_custom_fields_stay_as_they_are() -> None:
    own = '{"a": 123456789012345678901234567890, "b": 1.10, "c": 1e400}'
    content = encoder((Extra.CUSTOM_FIELDS,))([(1, None, None, None, None, own)])
    _, row = csv.reader(io.StringIO(converted(Form.CSV, (Extra.CUSTOM_FIELDS,), content, 7).decode()))
    assert row == ["1", "", "", "", "", own]


@pytest.mark.parametrize("extras", [(), (Extra.EMAILS,), _ALL], ids="+".join)
def test_csv_of_no_contact_has_the_header(extras: Extras) -> None:
    assert converted(Form.CSV, extras, b"", 1).decode() == ",".join([*_BASE, *extras]) + "\r\n"


def test_the_columns_of_an_export_with_unknown_extras_are_those_of_its_lines() -> None:
    content = encoder(_ALL)([(1, "a", None, None, None, "[]", '["b"]', "{}")])
    assert converted(Form.CSV, (), content, 100).decode().splitlines() == [
        ",".join([*_BASE, *_ALL]),
        '1,a,,,,[],"[""b""]",{}',
    ]


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n{\n", b'{"id":1}\n{"name":1}\n', b"\xff\n"])
def test_a_line_that_is_no_contact_is_a_wrong_file(line: bytes) -> None:
    with pytest.raises(WrongFile):
        converted(Form.CSV, (), line, 100)


def test_content_that_ends_inside_a_line_is_a_wrong_file() -> None:
    with pytest.raises(WrongFile):
        converted(Form.LINES, (), b'{"id":1}', 100)


@given(st.binary(max_size=300).map(lambda text: text * 50), st.integers(1, 100))
def test_unpacking_gives_the_content_and_the_number_of_its_lines(content: bytes, cut: int) -> None:
    packed = gzip.compress(content)
    unpacker = Unpacker()
    pieces = [piece for start in range(0, len(packed), cut) for piece in unpacker.feed(packed[start : start + cut])]
    unpacker.end()
    assert (b"".join(pieces), unpacker.rows) == (content, content.count(b"\n"))


def test_a_small_file_of_many_bytes_is_unpacked_in_pieces() -> None:
    packed = gzip.compress(bytes(50_000_000))
    assert len(packed) < 100_000
    assert max(map(len, Unpacker().feed(packed))) <= 1024 * 1024


@pytest.mark.parametrize(
    "packed",
    [b"no gzip at all", gzip.compress(b"a") * 2, gzip.compress(b"a" * 99)[:-9] + b"\0" * 9],
    ids=["text", "two members", "wrong trailer"],
)
def test_bytes_that_are_no_gzip_member_are_a_wrong_file(packed: bytes) -> None:
    with pytest.raises(WrongFile):
        list(Unpacker().feed(packed))


def test_a_member_that_ends_early_is_a_wrong_file() -> None:
    unpacker = Unpacker()
    list(unpacker.feed(gzip.compress(b"a" * 100)[:-1]))
    with pytest.raises(WrongFile):
        unpacker.end()

"""Rows become lines of NDJSON: for any contact, each line is one JSON object with the contract's keys."""

import json
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.exports.stream.lines import encoder
from service.model import Extra
from tests.support.contacts import chosen_extras

BASE = ["id", "email", "name", "phone", "location"]

nasty = st.sampled_from(
    [
        '},{"id":',
        '"},{"id":1,"email":"',
        '\\"},{\\"id\\":',
        "},{",
        '{"id":',
        "\\",
        '"',
        "\n",
        "\r\n",
        "\t",
        "\x01",
        "\x1f",
        "\x7f",
        "\u0085",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\u202eevil",
        "\N{PILE OF POO}",
        "\N{WOMAN}\u200d\N{PERSONAL COMPUTER}",
        "e\u0301",
        "العربية",
        "\U0010ffff",
        "",
    ]
)
letters = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
texts = st.lists(nasty | letters, max_size=4).map("".join)
fields = st.none() | texts
ids = st.integers(-(2**63), 2**63 - 1)
arrays = st.lists(texts, max_size=5)


class Contact(NamedTuple):
    """A row as the database returns it, except that arrays are lists here and JSON text there."""

    id: int
    email: str | None
    name: str | None
    phone: str | None
    location: str | None
    comet_tokens: list[str]
    emails: list[str]

    def row(self, *, with_tokens: bool, with_emails: bool) -> tuple[object, ...]:
        return (*self[:5], *[_json(self.comet_tokens)] * with_tokens, *[_json(self.emails)] * with_emails)


def _json(values: list[str]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


contacts = st.lists(st.builds(Contact, ids, fields, fields, fields, fields, arrays, arrays), max_size=6)


@pytest.mark.parametrize("with_emails", [False, True])
@pytest.mark.parametrize("with_tokens", [False, True])
@given(contacts=contacts)
def test_each_line_parses_to_its_contact_with_the_keys_in_the_order_of_the_contract(
    contacts: list[Contact], with_tokens: bool, with_emails: bool
) -> None:
    encode = encoder(chosen_extras(tokens=with_tokens, emails=with_emails))
    block = encode([contact.row(with_tokens=with_tokens, with_emails=with_emails) for contact in contacts])
    keys = BASE + ["comet_tokens"] * with_tokens + ["emails"] * with_emails
    wanted = [[(key, getattr(contact, key)) for key in keys] for contact in contacts]
    assert block.count(b"\n") == len(contacts)
    assert block == b"" or block.endswith(b"\n")
    assert [json.loads(line, object_pairs_hook=list) for line in block.split(b"\n")[:-1]] == wanted


@given(st.lists(arrays, min_size=1, max_size=3))
def test_lines_are_separated_only_between_contacts(values: list[list[str]]) -> None:
    rows = [(number, None, None, None, None, _json(each), _json(each), "{}") for number, each in enumerate(values)]
    lines = encoder(tuple(Extra))(rows).splitlines(keepends=True)
    assert [json.loads(line)["emails"] for line in lines] == values


def test_json_arrays_are_copied_unchanged() -> None:
    row = (1, None, None, None, None, '[ "a\\u00e9" ,\t"b"]', '["\\/"]', '{"a": {"b": 1e2}}')
    block = encoder(tuple(Extra))([row])
    assert b'"comet_tokens":[ "a\\u00e9" ,\t"b"],' in block
    assert b'"emails":["\\/"],' in block
    assert b'"custom_fields":{"a": {"b": 1e2}}}\n' in block


def test_lines_are_utf_8_without_byte_order_mark_and_spaces() -> None:
    block = encoder(())([(1, "a@b.test", "Zoë", None, "\N{PILE OF POO}")])
    assert block == '{"id":1,"email":"a@b.test","name":"Zoë","phone":null,"location":"\N{PILE OF POO}"}\n'.encode()


def test_no_contacts_give_no_bytes() -> None:
    assert encoder((Extra.COMET_TOKENS,))([]) == b""


def test_a_batch_encodes_to_the_same_bytes_when_it_is_split() -> None:
    encode = encoder(())
    rows = [(number, "a", None, None, None) for number in range(10)]
    assert encode(rows[:3]) + encode(rows[3:]) == encode(rows)


def test_ignored_columns_at_the_end_are_in_no_line() -> None:
    rows = [(1, "a", "b", "c", "d", '["e"]')]
    further = [(*row, "f", "g") for row in rows]
    assert encoder((Extra.EMAILS,), ignored=2)(further) == encoder((Extra.EMAILS,))(rows)

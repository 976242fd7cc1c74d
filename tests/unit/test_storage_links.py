"""Links that the service itself serves."""

from datetime import timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import LinkExpired, LinkForged
from service.storage.directory.links import FILES_PATH, LinkSigner

SIGNER = LinkSigner(b"0123456789abcdef", timedelta(minutes=15))
ORIGIN = "https://exports.example.org"
NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def read(url: str) -> tuple[str, dict[str, str]]:
    """Name and query as a server reads them."""
    parts = urlsplit(url)
    return unquote(parts.path).removeprefix(FILES_PATH), dict(parse_qsl(parts.query, keep_blank_values=True))


@given(name=texts, filename=texts)
def test_a_link_is_verified_whatever_the_names(name: str, filename: str) -> None:
    assert SIGNER.verified_filename(*read(SIGNER.link(name, filename, ORIGIN).url)) == filename


@given(position=st.integers(0, 10_000), character=st.characters())
def test_a_link_in_which_any_character_is_changed_is_refused(position: int, character: str) -> None:
    url = SIGNER.link(NAME, "contacts-7.ndjson.gz", ORIGIN).url
    start = len(ORIGIN + FILES_PATH)
    position = start + position % (len(url) - start)
    changed = url[:position] + character + url[position + 1 :]
    if read(changed) == read(url):
        return
    with pytest.raises(LinkForged):
        SIGNER.verified_filename(*read(changed))


@given(
    query=st.fixed_dictionaries(
        {}, optional={name: st.text(max_size=70) for name in ("expires", "filename", "signature", "x")}
    )
)
def test_a_query_that_nobody_signed_is_forged(query: dict[str, str]) -> None:
    with pytest.raises(LinkForged):
        SIGNER.verified_filename(NAME, query)


def test_a_link_to_which_something_was_added_is_refused() -> None:
    name, query = read(SIGNER.link(NAME, "x.gz", ORIGIN).url)
    with pytest.raises(LinkForged):
        SIGNER.verified_filename(name, {**query, "more": "1"})


def test_a_link_expires() -> None:
    link = LinkSigner(b"0123456789abcdef", timedelta(seconds=-1)).link(NAME, "x.gz", ORIGIN)
    with pytest.raises(LinkExpired):
        SIGNER.verified_filename(*read(link.url))


def test_fields_cannot_be_moved_into_each_other() -> None:
    """What is signed tells where one field ends and the next begins."""
    _, query = read(SIGNER.link("a\n9999999999", "c", ORIGIN).url)
    moved = {**query, "expires": "9999999999", "filename": f"{query['expires']}\nc"}
    with pytest.raises(LinkForged):
        SIGNER.verified_filename("a", moved)

"""Links to files that the service serves itself."""

import asyncio
from datetime import timedelta
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DatabaseUnavailable, LinkExpired, LinkForged
from service.storage.directory.links import FILES_PATH, FileLinkSigner
from tests.support.stores import link_secret

SIGNER = FileLinkSigner(link_secret, timedelta(minutes=15))
ORIGIN = "https://exports.example.org"
NAME = "12/34/0d9a7c1e-8f5b-4d7a-9c63-2f1f6f0c1f11.ndjson.gz"

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def signed(name: str, filename: str) -> str:
    """Return the address of a new link."""
    return asyncio.run(SIGNER.link(name, filename, ORIGIN)).url


def verified(name: str, query: dict[str, str]) -> str:
    """Return the file name of a link."""
    return asyncio.run(SIGNER.verified_filename(name, query))


def decoded(url: str) -> tuple[str, dict[str, str]]:
    """Return the object name and the query as a server decodes them."""
    parts = urlsplit(url)
    return unquote(parts.path).removeprefix(FILES_PATH), dict(parse_qsl(parts.query, keep_blank_values=True))


@given(name=texts, filename=texts)
def test_a_link_with_any_names_is_valid(name: str, filename: str) -> None:
    assert verified(*decoded(signed(name, filename))) == filename


@given(position=st.integers(0, 10_000), character=st.characters())
def test_a_link_with_one_changed_character_is_refused(position: int, character: str) -> None:
    url = signed(NAME, "contacts-7.ndjson.gz")
    start = len(ORIGIN + FILES_PATH)
    position = start + position % (len(url) - start)
    changed = url[:position] + character + url[position + 1 :]
    if decoded(changed) == decoded(url):
        return
    with pytest.raises(LinkForged):
        verified(*decoded(changed))


@given(
    query=st.fixed_dictionaries(
        {}, optional={name: st.text(max_size=70) for name in ("expires", "filename", "signature", "x")}
    )
)
def test_an_unsigned_query_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(LinkForged):
        verified(NAME, query)


def test_a_link_ends_in_the_name_of_the_file() -> None:
    assert signed(NAME, "contacts-7.ndjson.gz").endswith("contacts-7.ndjson.gz")


def test_a_link_with_an_additional_parameter_is_refused() -> None:
    name, query = decoded(signed(NAME, "x.gz"))
    with pytest.raises(LinkForged):
        verified(name, {**query, "more": "1"})


async def test_a_link_expires() -> None:
    link = await FileLinkSigner(link_secret, timedelta(seconds=-1)).link(NAME, "x.gz", ORIGIN)
    with pytest.raises(LinkExpired):
        await SIGNER.verified_filename(*decoded(link.url))


def test_text_cannot_move_from_one_signed_field_to_another() -> None:
    _, query = decoded(signed("a\n9999999999", "c"))
    moved = {**query, "expires": "9999999999", "filename": f"{query['expires']}\nc"}
    with pytest.raises(LinkForged):
        verified("a", moved)


async def test_a_link_needs_no_secret_before_its_first_use_and_passes_its_error_through() -> None:
    results: list[bytes | Exception] = [DatabaseUnavailable(), b"secret", b"secret"]

    async def secret() -> bytes:
        result = results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    signer = FileLinkSigner(secret, timedelta(minutes=15))
    with pytest.raises(DatabaseUnavailable):
        await signer.link(NAME, "x.gz", ORIGIN)
    link = await signer.link(NAME, "x.gz", ORIGIN)
    assert await signer.verified_filename(*decoded(link.url)) == "x.gz"
    assert results == []

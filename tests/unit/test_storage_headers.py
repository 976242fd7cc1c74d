"""Object names and file names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage.headers import checked_object_name, content_disposition


@pytest.mark.parametrize("name", ["a", "12/34/x.ndjson.gz", ".probe/1", "a b", "ä/日本", "..a/b.."])
def test_an_ordinary_name_is_an_object_name(name: str) -> None:
    assert checked_object_name(name) == name


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0", "a\n", "a\x7f"])
def test_a_name_that_is_no_path_below_the_store_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="object name"):
        checked_object_name(name)


def test_a_file_name_becomes_a_header() -> None:
    assert content_disposition("contacts-7.ndjson.gz") == 'attachment; filename="contacts-7.ndjson.gz"'


@given(st.text(st.sampled_from("\"\\\r\n;/ \0é'%"), min_size=1, max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_a_file_name_cannot_break_out_of_its_header(bad: str, before: str, after: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        content_disposition(before + bad + after)

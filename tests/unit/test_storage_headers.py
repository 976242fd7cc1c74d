"""Headers of downloaded files."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.storage.headers import content_disposition


def test_a_file_name_becomes_a_header() -> None:
    assert content_disposition("contacts-7.ndjson.gz") == 'attachment; filename="contacts-7.ndjson.gz"'


@given(st.text(st.sampled_from("\"\\\r\n;/ \0é'%"), min_size=1, max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_a_file_name_cannot_inject_header_syntax(bad: str, before: str, after: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        content_disposition(before + bad + after)

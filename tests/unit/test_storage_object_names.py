"""Object names."""

import pytest

from service.storage.object_names import checked_object_name


@pytest.mark.parametrize("name", ["a", "12/34/x.ndjson.gz", ".probe/1", "a b", "ä/日本", "..a/b.."])
def test_a_relative_path_is_accepted(name: str) -> None:
    assert checked_object_name(name) == name


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0", "a\n", "a\x7f"])
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="object name"):
        checked_object_name(name)

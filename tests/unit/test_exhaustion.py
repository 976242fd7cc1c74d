"""Our own lack of resources is recognised behind every translation of an error."""

import errno

import pytest

from service.exhaustion import lacks_resources
from service.failures import SourceUnavailable, StorageUnavailable


def translated(error: Exception) -> Exception:
    """The error as the layers of the service translate it: twice."""
    failure = StorageUnavailable()
    failure.__cause__ = error
    outer = SourceUnavailable()
    outer.__context__ = failure
    return outer


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_lack_of_our_own_resources_is_found_among_the_causes(number: int) -> None:
    assert lacks_resources(translated(OSError(number, "none left")))


@pytest.mark.parametrize("error", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ValueError("wrong"), OSError()])
def test_an_error_of_somebody_else_is_no_lack_of_our_resources(error: Exception) -> None:
    assert not lacks_resources(translated(error))

"""Values that people type or that addresses contain."""

from service.errors import ServiceError

LARGEST_ID = 2**63 - 1


class UnknownId(ServiceError):
    """No export, Space or key has this id."""

    code = "not_found"
    message = "There is no export or Space with this id."


def whole_number(text: str, *, largest: int) -> int | None:
    """The number from 1 to `largest` that the text is in ASCII digits, else None."""
    digits = text if text.isascii() and text.isdecimal() and len(text) <= len(str(largest)) else "0"
    return int(digits) if 0 < int(digits) <= largest else None


def id_of(text: str) -> int:
    """The id that a text is. Raises UnknownId."""
    number = whole_number(text.strip(), largest=LARGEST_ID)
    if number is None:
        raise UnknownId
    return number

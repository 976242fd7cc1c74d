"""The shape of one line of an exported file, for the description of the API. `exports.stream` makes the lines."""

from typing import Annotated, Any

from pydantic import Field, create_model

from service.model import Extra

ContactId = Annotated[
    int | str, Field(description="A whole number of 64 bits, or a string if the ids of the contacts are UUIDs or text.")
]
"""The id of a contact, in lines, bodies and addresses."""
_EXTRAS: dict[Extra, Any] = {Extra.COMET_TOKENS: Annotated[list[str], Field(max_length=5)]}
"""Types of the extras that are not a plain list of strings."""
_FIELDS: dict[str, Any] = {
    "id": ContactId,
    **dict.fromkeys(("email", "name", "phone", "location"), str | None),
}
_OPTIONAL_FIELDS: dict[str, Any] = {extra.value: (_EXTRAS.get(extra, list[str]), Field(default=None)) for extra in Extra}

ContactLine = create_model(
    "ContactLine",
    __doc__="""One line of an exported file: a contact.

    The file is NDJSON in UTF-8, compressed as one gzip member, and every line ends in a line feed. The first five keys are
    always present. The others are present only if the export asked for them; their values are most recent first.
    """,
    **_FIELDS,
    **_OPTIONAL_FIELDS,
)

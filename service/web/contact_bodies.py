"""Parameters and bodies of the contact API."""

from typing import Any, NotRequired

from multidict import MultiMapping
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typing_extensions import TypedDict

from service.errors import InvalidParameters
from service.model import Extra, Extras
from service.web.contact_lines import ContactId
from service.web.export_bodies import RangeBody
from service.web.parameters import QueryFlag, errors_by_field, sent_values

_OPTIONS_OF_ONE = (Extra.COMET_TOKENS, Extra.CUSTOM_FIELDS)
"""GET /contacts/{id} always has all addresses."""


def _flags(extras: Extras) -> dict[str, Any]:
    return {extra.option: (QueryFlag, Field(False, description=f"1 adds `{extra}`.")) for extra in extras}


ContactFilters = create_model("ContactFilters", __base__=RangeBody, **_flags(tuple(Extra)))
"""The parameters of GET /contacts that a cursor belongs to: the dates, and one flag for each `Extra`."""
ContactOptions = create_model(
    "ContactOptions", __config__=ConfigDict(extra="ignore", frozen=True), **_flags(_OPTIONS_OF_ONE)
)
"""The parameters of GET /contacts/{contact_id}."""


class ContactBody(TypedDict):
    """A contact in a list: the keys of a line of the file. The keys after `location` are present if asked for."""

    id: ContactId
    email: str | None
    name: str | None
    phone: str | None
    location: str | None
    comet_tokens: NotRequired[list[str]]
    emails: NotRequired[list[str]]
    custom_fields: NotRequired[dict[str, Any]]


class ContactDetailsBody(TypedDict):
    """One contact with all its values, each once: at most 25 of each kind, the most recent first."""

    id: ContactId
    emails: list[str]
    phones: list[str]
    names: list[str]
    locations: list[str]
    comet_tokens: NotRequired[list[str]]
    custom_fields: NotRequired[dict[str, Any]]


def parse_options(query: MultiMapping[str]) -> Extras:
    """The extras that a query of GET /contacts/{contact_id} asks for. Raises InvalidParameters naming every invalid one."""
    try:
        return chosen_extras(ContactOptions.model_validate(sent_values(query, ContactOptions.model_fields)))
    except ValidationError as error:
        raise InvalidParameters(errors_by_field(error)) from None


def chosen_extras(flags: BaseModel) -> Extras:
    """The extras whose flag is set."""
    return tuple(extra for extra in Extra if getattr(flags, extra.option, False))

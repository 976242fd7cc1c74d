"""The OpenAPI document: it has every route, and its examples fit its schemas."""

import hashlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service.model import Extra
from service.web import openapi_examples
from service.web.contact_lines import ContactLine
from service.web.routes import ROUTES
from service.webhooks.event_types import EVENT_TYPES
from service.webhooks.signing import signed_headers
from tests.support import docs
from tests.support.documented import document, operations, validator

NOW = datetime.now(UTC)
BY_ID = {operation["operationId"]: operation for operation in operations().values()}


def schemas(node: Any) -> Iterator[dict[str, Any]]:
    """Every schema in the document."""
    if isinstance(node, dict):
        yield from [node["schema"]] if isinstance(node.get("schema"), dict) else []
        for value in node.values():
            yield from schemas(value)
    elif isinstance(node, list):
        for value in node:
            yield from schemas(value)


def test_the_document_has_every_route() -> None:
    assert set(BY_ID) == {route.operation_id for route in ROUTES}


def test_operations_say_which_key_they_need() -> None:
    for route in ROUTES:
        assert BY_ID[route.operation_id]["security"] == ([{"apiKey": [route.scope]}] if route.scope else [])
        assert ("x-rate-limit" in BY_ID[route.operation_id]) == (route.bucket is not None)


def test_all_schemas_are_json_schemas() -> None:
    for schema in [*schemas(document()["paths"]), *document()["components"]["schemas"].values()]:
        Draft202012Validator.check_schema(schema)


def test_references_and_links_have_targets() -> None:
    text = str(document())
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document()["components"]["schemas"]
    for identifier in re.findall(r"'operationId': '(\w+)'", text):
        assert identifier in BY_ID


@pytest.mark.parametrize("operation", ["createExport", "listExports", "getExport"])
def test_links_lead_from_an_export_to_its_status_and_its_cancellation(operation: str) -> None:
    (response,) = (
        BY_ID[operation]["responses"].get(status) for status in ("200", "202") if status in BY_ID[operation]["responses"]
    )
    assert {"getExport", "cancelExport"} <= set(response["links"])


def test_a_link_leads_from_a_list_of_contacts_to_its_first_contact() -> None:
    link = BY_ID["listContacts"]["responses"]["200"]["links"]["getContact"]
    assert link["parameters"] == {"contact_id": "$response.body#/data/0/id"}


@pytest.mark.parametrize("model", ["ContactLine", "ContactBody", "ContactDetailsBody"])
def test_the_id_of_a_contact_is_an_integer_or_a_string(model: str) -> None:
    described = document()["components"]["schemas"][model]["properties"]["id"]
    assert described["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert "UUIDs" in described["description"]


def test_every_path_has_the_parameters_of_its_template_and_each_is_described() -> None:
    for (path, _), operation in operations().items():
        parameters = operation.get("parameters", [])
        assert set(re.findall(r"\{(\w+)\}", path)) == {entry["name"] for entry in parameters if entry["in"] == "path"}
        assert all(entry.get("description") for entry in parameters)


def test_examples_belong_to_operations_and_fit_their_schemas() -> None:
    count = 0
    for operation in BY_ID.values():
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for media in (media for body in bodies for media in body.get("content", {}).values()):
            for example in media.get("examples", {}).values():
                validator(media["schema"]).validate(example["value"])
                count += 1
    written = [*openapi_examples.BODIES.values()]
    written += [by_title for by_status in openapi_examples.RESPONSES.values() for by_title in by_status.values()]
    errors = sum(str(status) in operation["responses"] for status in openapi_examples.ERRORS for operation in BY_ID.values())
    assert count == sum(map(len, written)) + errors


def test_every_body_of_a_request_has_an_example() -> None:
    assert set(openapi_examples.BODIES) == {route.operation_id for route in ROUTES if route.body}


def test_every_event_is_a_webhook_whose_example_fits_its_schema() -> None:
    webhooks = document()["webhooks"]
    assert list(webhooks) == list(EVENT_TYPES)
    for item in webhooks.values():
        media = item["post"]["requestBody"]["content"]["application/json"]
        for example in media.get("examples", {}).values():
            validator(media["schema"]).validate(example["value"])
        assert {entry["name"] for entry in item["post"]["parameters"]} == set(signed_headers("msg_1", NOW, b"", []))
    assert "examples" in webhooks[EVENT_TYPES[0]]["post"]["requestBody"]["content"]["application/json"]


def test_every_error_is_described_in_both_formats() -> None:
    for operation in BY_ID.values():
        for response in operation["responses"].values():
            content = response.get("content", {})
            assert ("application/problem+json" in content) == ("ErrorBody" in str(content.get("application/json")))


def test_a_line_of_the_file_has_every_extra() -> None:
    keys = ["id", "email", "name", "phone", "location", *(extra.value for extra in Extra)]
    assert list(ContactLine.model_fields) == keys


def test_the_files_of_swagger_ui_are_those_of_its_package() -> None:
    directory = docs.ROOT / "service/web/swagger"
    recorded = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", (directory / "README.md").read_text()))
    ours = {"README.md", "index.html", "start.js"}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    assert recorded == {name: digest for name, digest in found.items() if name not in ours}

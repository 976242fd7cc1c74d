"""JSON Schemas of the declared types, for the OpenAPI document: models by reference, other types in place."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from openapi_pydantic import Schema
from pydantic import BaseModel, TypeAdapter

_REFERENCE = "#/components/schemas/{model}"


class Schemas:
    """The schemas of `types`: the declared bodies of requests and responses."""

    def __init__(self, types: Collection[Any]) -> None:
        unique = {id(declared): declared for declared in types}
        adapters = [(key, _mode(declared), TypeAdapter(declared)) for key, declared in unique.items()]
        schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=_REFERENCE)
        self._by_type: Mapping[int, dict[str, Any]] = {int(str(key)): schema for (key, _), schema in schemas.items()}
        self._components: dict[str, dict[str, Any]] = dict(definitions.get("$defs", {}))

    def of(self, declared: Any) -> Schema:
        """The schema of a body: a reference if it is a model."""
        return Schema.model_validate(self._by_type[id(declared)])

    def in_place(self, declared: Any) -> dict[str, Any]:
        """The schema of a parameter, or of a model whose fields are parameters. Models inside it become components."""
        schema = TypeAdapter(declared).json_schema(ref_template=_REFERENCE)
        self._components.update(schema.pop("$defs", {}))
        return schema

    def components(self) -> dict[str, Schema]:
        """The models that the schemas refer to, by name."""
        return {name: Schema.model_validate(schema) for name, schema in sorted(self._components.items())}


def _mode(declared: Any) -> Literal["validation", "serialization"]:
    request = isinstance(declared, type) and issubclass(declared, BaseModel)
    return "validation" if request else "serialization"

"""Google's schema objects (a subset of OpenAPI 3.0, types in capitals) → JSON Schema."""

from __future__ import annotations

from typing import Any

_WHOLE = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def json_schema(schema: Any) -> Any:
    """Converts a schema object to JSON Schema 2020-12."""
    if isinstance(schema, list):
        return [json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            out["type"] = value.lower()
        elif key == "properties" and isinstance(value, dict):
            out["properties"] = {name: json_schema(one) for name, one in value.items()}
        elif key in {"items", "anyOf", "any_of"}:
            out["anyOf" if key == "any_of" else key] = json_schema(value)
        elif key in _WHOLE and isinstance(value, str) and value.isdigit():
            out[key] = int(value)  # Google writes 64-bit integers as strings
        elif key not in {"nullable", "propertyOrdering", "property_ordering", "example"}:
            out[key] = value
    if schema.get("nullable") is True and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


def accepted(schema: Any) -> Any:
    """Returns a schema for ``parametersJsonSchema`` or ``responseJsonSchema``: no ``$schema``, ``$id`` or comments."""
    if not isinstance(schema, dict):
        return {"type": "object", "properties": {}}
    return {key: value for key, value in schema.items() if key not in {"$schema", "$id", "$comment"}}

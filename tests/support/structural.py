"""Validates objects against a structural schema as the API server does, rules in CEL included, without a cluster.

Only what our definitions use; `tests/cluster/test_api.py` asks a real API server the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cel

Schema = dict[str, Any]
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "number": (int, float)}
BOUNDS = {
    "minimum": (lambda value, limit: value >= limit, "should be greater than or equal to {}"),
    "maximum": (lambda value, limit: value <= limit, "should be less than or equal to {}"),
}
LENGTHS = {
    "minLength": lambda value, limit: len(value) >= limit,
    "maxLength": lambda value, limit: len(value) <= limit,
    "minItems": lambda value, limit: len(value) >= limit,
    "maxItems": lambda value, limit: len(value) <= limit,
    "maxProperties": lambda value, limit: len(value) <= limit,
}


def refusals(schema: Schema, value: Any, old: Any = None) -> list[str]:
    """`field: message` for everything that is wrong; empty: taken. Rules are asked only where types are right."""
    wrong = [f"{place}: {message}" for place, message in _check("", schema, value)]
    is_blocked = any("type" in each or "Required" in each or "length" in each for each in wrong)
    if not is_blocked:
        wrong += [f"{place}: {message}" for place, message in _ask("", schema, value, old)]
    return wrong


def _check(place: str, schema: Schema, value: Any) -> Iterator[tuple[str, str]]:
    """Everything but the rules."""
    if "x-kubernetes-int-or-string" in schema:
        if type(value) not in (int, str):
            yield place, "must be of type integer or string"
            return
    elif not isinstance(value, TYPES[schema["type"]]) or (type(value) is bool) != (schema["type"] == "boolean"):
        yield place, f"must be of type {schema['type']}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield place, "supported values: " + ", ".join(f'"{each}"' for each in schema["enum"])
    for key, (holds, message) in BOUNDS.items():
        if key in schema and isinstance(value, int) and not holds(value, schema[key]):
            yield place, message.format(schema[key])
    for key, fits in LENGTHS.items():
        if key in schema and hasattr(value, "__len__") and not fits(value, schema[key]):
            yield place, f"{key} is {schema[key]}: length {len(value)}"
    if isinstance(value, dict):
        yield from _check_object(place, schema, value)
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield from _check(f"{place}[{number}]", schema["items"], item)
        keys = [[each.get(key) for key in schema.get("x-kubernetes-list-map-keys", ())] for each in value[: number + 1]]
        if keys[-1] and keys[-1] in keys[:-1]:
            yield f"{place}[{number}]", "Duplicate value"


def _check_object(place: str, schema: Schema, value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{place}.{name}".lstrip("."), "Required value"
    for name, inner in value.items():
        path = f"{place}.{name}".lstrip(".")
        if name in properties or others is not None:
            yield from _check(path, properties.get(name, others), inner)
        elif "x-kubernetes-preserve-unknown-fields" not in schema and place != "metadata":
            yield path, "unknown field"


def _ask(place: str, schema: Schema, value: Any, old: Any) -> Iterator[tuple[str, str]]:
    """The rules."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if cel.evaluate(rule["rule"], {"self": value, "oldSelf": old}) is not True:
            yield f"{place}{rule.get('fieldPath', '')}".lstrip("."), rule["message"]
    if isinstance(value, dict):
        for name, inner in value.items():
            before = old.get(name) if isinstance(old, dict) else None
            if name in schema.get("properties", {}):
                yield from _ask(f"{place}.{name}".lstrip("."), schema["properties"][name], inner, before)
            elif "additionalProperties" in schema:
                yield from _ask(f"{place}[{name}]", schema["additionalProperties"], inner, before)
    for number, item in enumerate(value if isinstance(value, list) else ()):
        yield from _ask(f"{place}[{number}]", schema["items"], item, None)

"""From a type to the schema that the API server checks: OpenAPI v3, structural, without references."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from penstock_operator.api.rules import IF_MISSING, IF_WRONG, PRESERVE, Rule
from penstock_operator.api.scalars import Part

Schema = dict[str, Any]
VALIDATIONS = "x-kubernetes-validations"
# JSON Schema has these; a CustomResourceDefinition has not, or must not: our schema never sets a value.
LEFT_OUT = ("title", "default", "$defs", IF_WRONG)


def build_schema(part: type[Part]) -> Schema:
    """The schema of `part`; raises KeyError if two parts below it have the same name."""
    whole = msgspec.json.schema(part)
    return _expand(whole, _Parts(whole["$defs"], {each.__name__: each for each in _parts(Part)}))


class _Parts(msgspec.Struct, frozen=True):
    schemas: dict[str, Schema]
    types: dict[str, type[Part]]


def _parts(part: type[Part]) -> Iterator[type[Part]]:
    for each in part.__subclasses__():
        yield each
        yield from _parts(each)


def _expand(node: Schema, parts: _Parts) -> Schema:
    """`node` without references, alternatives and what only JSON Schema knows."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        node = parts.schemas[name] | {VALIDATIONS: _rules(parts.types[name].RULES)} | node
    others = [each for each in node.get("anyOf", ()) if each != {"type": "null"}]
    if len(others) == 1:
        return _expand(others[0] | {key: value for key, value in node.items() if key != "anyOf"}, parts)
    if others:
        return _int_or_string(node, *sorted(others, key=lambda each: str(each["type"])))
    rules = [*node.get(VALIDATIONS, ())]
    if IF_WRONG in node:
        rules.append(_matches("", node))
    out = {key: value for key, value in node.items() if key not in (*LEFT_OUT, "$ref", "required", VALIDATIONS)}
    if IF_WRONG in node:
        del out["pattern"]
    if "enum" in out:
        out["type"] = "string"
    if node.get("type") == "object":
        rules = _expand_object(out, [*node.get("required", ())], parts) + rules
    if "items" in out:
        out["items"] = _expand(out["items"], parts)
    return _ordered(out, rules)


def _expand_object(out: Schema, required: list[str], parts: _Parts) -> list[Schema]:
    """Properties, or values by key. Returns the rules for required fields that have something to say if missing."""
    inner = out.pop("additionalProperties", False)
    if inner and PRESERVE not in out:
        out["additionalProperties"] = _expand(inner, parts)
    rules = []
    properties = {}
    for name, value in out.pop("properties", {}).items():
        hint = value.get(IF_MISSING)
        if hint is not None:
            required.remove(name)
            rules.append({"rule": f"has(self.{name})", "message": f"{name} is missing: {hint}"})
        properties[name] = _expand({key: text for key, text in value.items() if key != IF_MISSING}, parts)
    if properties:
        out["properties"] = properties
    if required:
        out["required"] = required
    return rules


def _int_or_string(node: Schema, number: Schema, text: Schema) -> Schema:
    """Kubernetes' one way to allow both; a bound holds for the number, a length for the string."""
    out = {"x-kubernetes-int-or-string": True} | {key: node[key] for key in ("description",) if key in node}
    out |= {key: number[key] for key in ("minimum", "maximum") if key in number} | {"maxLength": text["maxLength"]}
    return _ordered(out, [_matches("type(self) == int || ", text)])


def _matches(otherwise: str, text: Schema) -> Schema:
    return {"rule": f"{otherwise}self.matches(r'{text['pattern']}')", "message": text[IF_WRONG]}


def _rules(rules: tuple[Rule, ...]) -> list[Schema]:
    return [{"rule": rule.cel, "message": rule.message} for rule in rules]


def _ordered(out: Schema, rules: list[Schema]) -> Schema:
    """What people look for first comes first."""
    first = {key: out.pop(key) for key in ("description", "type") if key in out}
    return first | out | ({VALIDATIONS: rules} if rules else {})

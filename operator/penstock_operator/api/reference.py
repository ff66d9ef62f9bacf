"""The reference of the API, as Markdown, from the same schemas that the API server checks."""

from __future__ import annotations

from collections.abc import Iterator

from penstock_operator.api.crds import build_crds
from penstock_operator.api.rules import PRESERVE
from penstock_operator.api.schema import VALIDATIONS, Schema

HEAD = """# API reference

This page is generated from `operator/penstock_operator/api/` by `make generate`. `kubectl explain` says the same.

Nothing that can be left out has a value of its own in the schema: a field that is not written stays open, and the
operator decides. The API server refuses what is written here as a rule, with that sentence.
"""
TABLE = "| field | type | meaning |\n|---|---|---|\n"


def build_reference() -> str:
    """The whole page."""
    return HEAD + "".join(_of_kind(definition["spec"]) for definition in build_crds().values())


def _of_kind(spec: Schema) -> str:
    version = spec["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    names = spec["names"]
    text = f"\n## {names['kind']}\n\n`{spec['group']}/{version['name']}`, short name `{names['shortNames'][0]}`. "
    text += f"{schema['description']}\n"
    for part in ("spec", "status"):
        inner = schema["properties"][part]
        text += f"\n### {names['kind']}: {part}\n\n{inner['description']}\n\n{TABLE}"
        text += "".join(_row(path, field, is_needed) for path, field, is_needed in _fields(part, inner))
    return f"{text}\n### {names['kind']}: rules\n\n{''.join(_rules('', schema))}"


def _fields(place: str, schema: Schema) -> Iterator[tuple[str, Schema, bool]]:
    """(path, schema, whether it has to be there) of everything below a part, depth first."""
    needed = [*schema.get("required", ()), *_needed_by_rule(schema)]
    for name, field in schema.get("properties", {}).items():
        yield f"{place}.{name}", field, name in needed
        yield from _fields(*_inside(f"{place}.{name}", field))


def _inside(place: str, field: Schema) -> tuple[str, Schema]:
    """What a field is made of: entries of a list or a map count as the field's own."""
    if field.get("type") == "array":
        return f"{place}[]", field["items"]
    if "properties" in field.get("additionalProperties", {}):
        return f"{place}.*", field["additionalProperties"]
    return place, field if PRESERVE not in field else {}


def _needed_by_rule(schema: Schema) -> list[str]:
    """Fields that a rule asks for, so that its sentence says what to write."""
    rules = [rule["rule"] for rule in schema.get(VALIDATIONS, ())]
    return [name for name in schema.get("properties", {}) if f"has(self.{name})" in rules]


def _row(path: str, field: Schema, is_needed: bool) -> str:
    about = field.get("description", "")
    notes = [about] if about else []
    notes += ["required"] if is_needed else []
    return f"| `{path}` | {_type(field)} | {'; '.join(notes).replace('|', chr(92) + '|')} |\n"


def _type(field: Schema) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "x-kubernetes-int-or-string" in field:
        return "integer or string"
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'])}"
    bounds = [f"{field[key]:,}" for key in ("minimum", "maximum") if key in field]
    suffix = f", {' to '.join(bounds)}" if len(bounds) == 2 else f", from {bounds[0]}" if bounds else ""
    return f"{field['type']}{suffix}"


def _rules(place: str, schema: Schema) -> Iterator[str]:
    """Every sentence that the API server may answer, with the field it is about."""
    for rule in schema.get(VALIDATIONS, ()):
        yield f"- `{place or 'the object'}`: {rule['message']}\n"
    for name, field in schema.get("properties", {}).items():
        if name == "status":
            continue  # nobody writes it but the operator
        path = f"{place}.{name}" if place else name
        yield from _rules(path, field)
        if field.get("type") == "array":
            yield from _rules(f"{path}[]", field["items"])
        if "additionalProperties" in field:
            yield from _rules(f"{path}.*", field["additionalProperties"])

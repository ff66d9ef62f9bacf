"""What a client could make as large as it likes, found in a JSON schema."""

from __future__ import annotations


def unbounded(node: object, definitions: dict, path: str) -> list[str]:
    """Everything in a JSON schema that a client could make as large as it likes."""
    if not isinstance(node, dict):
        return []
    if "$ref" in node:
        return unbounded(definitions[node["$ref"].rpartition("/")[2]], definitions, path)
    found, kind = [], node.get("type")
    is_listed = "enum" in node or "const" in node
    if kind in ("integer", "number") and not is_listed:
        has_low = "minimum" in node or "exclusiveMinimum" in node
        has_high = "maximum" in node or "exclusiveMaximum" in node
        found += [f"{path}: number"] * (not (has_low and has_high))
    elif kind == "string" and not is_listed:
        found += [f"{path}: string"] * ("maxLength" not in node)
    elif kind == "array":
        found += [f"{path}: list"] * ("maxItems" not in node)
    elif kind == "object":
        is_closed = node.get("additionalProperties") is False or "maxProperties" in node
        found += [f"{path}: mapping"] * (not is_closed)
        if "propertyNames" in node:
            keys = node["propertyNames"]
            is_number = "minimum" in keys  # a number as a string
            found += unbounded({"type": "integer" if is_number else "string"} | keys, definitions, f"{path}.keys")
        found += unbounded(node.get("additionalProperties"), definitions, f"{path}.values")
    elif kind is None and not is_listed and "anyOf" not in node and "oneOf" not in node:
        found.append(f"{path}: anything at all")
    for name, child in node.get("properties", {}).items():
        found += unbounded(child, definitions, f"{path}.{name}")
    found += unbounded(node.get("items"), definitions, f"{path}[]")
    for child in [*node.get("anyOf", []), *node.get("oneOf", [])]:
        found += unbounded(child, definitions, path)
    return found

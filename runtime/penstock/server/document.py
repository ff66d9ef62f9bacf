"""The OpenAPI document, from the table of endpoints and the msgspec structs that parse their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock import __version__
from penstock.server.endpoint import Endpoint

TITLE = "Penstock"
SCHEMA = "#/components/schemas/{name}"
KEY = "key"  # name of the security scheme
PATH_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")  # Starlette's `{name:path}`


def build_document(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """OpenAPI 3.1: every endpoint with its summary, its body, and whether it needs a key where keys are set."""
    bodies = [endpoint.body for endpoint in endpoints if endpoint.body is not None]
    _, schemas = msgspec.json.schema_components(bodies, ref_template=SCHEMA)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operations = paths.setdefault(PATH_PARAMETER.sub(r"{\1}", endpoint.path), {})
        operations[endpoint.method.lower()] = build_operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {KEY: {"type": "http", "scheme": "bearer"}}},
    }


def build_operation(endpoint: Endpoint) -> dict[str, Any]:
    """One endpoint."""
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "responses": {"200": {"description": "Done"}, "default": {"description": "An error in OpenAI's shape"}},
        "security": [] if endpoint.is_open else [{KEY: []}],
    }
    if names := PATH_PARAMETER.findall(endpoint.path):
        schema = {"type": "string"}
        operation["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]
    if endpoint.body is not None:
        content = {"application/json": {"schema": {"$ref": SCHEMA.format(name=endpoint.body.__name__)}}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation

from __future__ import annotations

import pytest
from fastapi.openapi.models import OpenAPI

import penstock
from penstock.server.app import ENDPOINTS
from support.schemas import unbounded


@pytest.fixture
async def document(site) -> dict:
    reply = await site.http.get("/openapi.json")
    assert reply.status_code == 200
    return reply.json()


def operations_of(document: dict) -> dict[tuple[str, str], dict]:
    return {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


async def test_it_is_openapi_and_says_what_this_is(document):
    OpenAPI.model_validate(document)
    assert document["info"] == {"title": "Penstock", "version": penstock.__version__}


async def test_it_names_every_route_and_what_it_takes(document):
    operations = operations_of(document)
    expected = {(endpoint.method, endpoint.path.replace(":path", "")): endpoint for endpoint in ENDPOINTS}
    assert operations.keys() == expected.keys()
    for place, endpoint in expected.items():
        operation = operations[place]
        assert operation["summary"].endswith("."), place
        assert operation["security"] == ([] if endpoint.is_open else [{"key": []}])
        assert ("requestBody" in operation) == (endpoint.method == "POST"), place
    (parameter,) = operations["GET", "/v1/models/{name}"]["parameters"]
    assert parameter["name"] == "name"


async def test_every_schema_in_it_is_bounded_and_every_body_has_one(document):
    schemas = document["components"]["schemas"]
    assert len(schemas) >= 4
    for name, schema in schemas.items():
        assert unbounded(schema, schemas, name) == []
    bodies = [each["requestBody"] for each in operations_of(document).values() if "requestBody" in each]
    references = [body["content"]["application/json"]["schema"]["$ref"] for body in bodies]
    assert len(references) == 4
    assert all(reference.removeprefix("#/components/schemas/") in schemas for reference in references)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_pages_of_the_framework_carry_an_id_and_are_counted(site, path):
    reply = await site.http.get(path, headers={"x-request-id": "abc-2"})
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == "abc-2"
    assert await site.metric('penstock_http_responses_total{code="200"}') == 1


async def test_the_page_for_people_shows_the_document(site):
    page = await site.http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/openapi.json" in page.text
    assert "swagger-ui" in page.text

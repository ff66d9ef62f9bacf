"""The CustomResourceDefinitions as a whole, and that what is generated from them is up to date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from penstock_operator.api.crds import build_crds
from penstock_operator.api.generate import build_files, write_files
from penstock_operator.api.reference import build_reference
from penstock_operator.api.status import Condition, InferenceServiceStatus, RoleScalerStatus
from support.structural import refusals

ROOT = Path(__file__).parent.parent.parent.parent
CRDS = build_crds()
ANNOTATION_LIMIT = 262_144  # bytes; `kubectl apply` keeps the whole object in an annotation
FILES = dict(build_files())


def schema_of(name):
    return CRDS[name]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def nodes(place: str, schema: dict) -> Iterator[tuple[str, dict]]:
    yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(f"{place}.{name}", inner)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(f"{place}[]", schema[key])


ALL = [pair for name in CRDS for pair in nodes(name, schema_of(name))]


@pytest.mark.parametrize("name", FILES)
def test_generated_files_are_up_to_date(name):
    assert (ROOT / name).read_text() == FILES[name], "run make generate"


def test_nothing_else_lies_between_the_generated_files():
    folders = ("crds", "charts/penstock-crds/templates")
    found = {str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).iterdir()}
    assert found == {name for name in FILES if name.startswith(folders)}


def test_files_are_written_where_they_belong(tmp_path):
    write_files(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(FILES)


@pytest.mark.parametrize("name", CRDS)
def test_kubectl_apply_can_keep_a_definition_in_an_annotation(name):
    assert len(json.dumps(CRDS[name])) < ANNOTATION_LIMIT / 4


def test_schemas_are_structural():
    for place, schema in ALL:
        assert ("type" in schema) != ("x-kubernetes-int-or-string" in schema), place
        assert not {"$ref", "anyOf", "title", "$defs", "if", "const"} & schema.keys(), place
        assert not any(key.startswith("x-") and not key.startswith("x-kubernetes-") for key in schema), place
        assert ("properties" not in schema) or ("additionalProperties" not in schema), place


def test_no_field_has_a_value_that_nobody_wrote_but_the_first_status():
    assert [place for place, schema in ALL if "default" in schema] == [f"{name}.status" for name in CRDS]
    assert all(schema_of(name)["properties"]["status"]["default"] == {"observedGeneration": -1} for name in CRDS)


def test_every_field_says_what_it_is():
    silent = [place for place, schema in ALL if "description" not in schema and not place.endswith("[]")]
    assert [place for place in silent if place.count(".") > 2] == []


def test_every_list_map_and_text_has_a_bound():
    """Else the API server's estimate of what a rule costs is beyond its limit."""
    wanted = {"array": "maxItems", "string": "maxLength"}
    for place, schema in ALL:
        bound = wanted.get(schema.get("type", ""))
        if ".spec." in place and bound and "enum" not in schema and not place.endswith("env[].name"):
            assert bound in schema, place


def test_every_rule_says_what_to_write():
    messages = [rule["message"] for _, schema in ALL for rule in schema.get("x-kubernetes-validations", ())]
    assert len(messages) > 60
    assert all(len(message) < 160 and "\n" not in message for message in messages)


def test_a_scaler_can_be_scaled_by_an_autoscaler():
    version = CRDS["rolescaler.yaml"]["spec"]["versions"][0]
    scale = version["subresources"]["scale"]
    for key, part in (("specReplicasPath", "spec"), ("statusReplicasPath", "status"), ("labelSelectorPath", "status")):
        name = scale[key].rpartition(".")[2]
        assert name in schema_of("rolescaler.yaml")["properties"][part]["properties"]


@pytest.mark.parametrize("name", CRDS)
def test_columns_show_fields_that_exist(name):
    for column in CRDS[name]["spec"]["versions"][0]["additionalPrinterColumns"]:
        schema = schema_of(name)
        first, _, rest = column["jsonPath"].removeprefix(".").partition(".")
        if first != "metadata":
            assert rest.partition("[")[0].split(".")[0] in schema["properties"][first]["properties"]


def test_the_status_that_is_written_is_one_that_the_schema_takes():
    condition = Condition(
        type="Ready", status="True", reason="AllReady", message="all pods", last_transition_time="2026-11-21T10:00:00Z"
    )
    status = msgspec.to_builtins(InferenceServiceStatus(observed_generation=2, conditions=(condition,)))
    status = json.loads(json.dumps(status))  # tuples become lists
    schema = schema_of("inferenceservice.yaml")["properties"]["status"]
    assert refusals(schema, status) == []
    assert refusals(schema, status | {"conditions": [*status["conditions"], *status["conditions"]]}) != []
    scaler = json.loads(msgspec.json.encode(RoleScalerStatus(observed_generation=1, replicas=0, selector="a=b")))
    assert refusals(schema_of("rolescaler.yaml")["properties"]["status"], scaler) == []


def test_the_reference_names_every_field_and_every_sentence():
    page = build_reference()
    assert "`spec.autoscaling.decode.targetKVUtilization`" in page
    assert "`spec.autoscaling.schedules[].start`" in page
    assert "`spec.model.source` | string | " in page
    assert "- `spec`: prefill pods need a connector: write connector: {type: nixl}" in page

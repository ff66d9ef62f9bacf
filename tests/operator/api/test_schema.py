"""What the schema of an InferenceService takes and refuses, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from penstock_operator.api.crds import build_crds
from support.bad_specs import BAD, BAD_NAMES, UNKNOWN
from support.good_specs import GOOD, MODEL
from support.structural import refusals

SERVICE, SCALER = (crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for crd in build_crds().values())


EXAMPLES = sorted((Path(__file__).parent.parent.parent.parent / "examples").glob("*.yaml"))


def answers(spec, name="qwen"):
    return refusals(SERVICE, {"metadata": {"name": name}} | ({} if spec is None else {"spec": spec}))


@pytest.mark.parametrize("name", GOOD)
def test_takes(name):
    assert answers(GOOD[name]) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_takes_the_example(path):
    services = [one for one in yaml.safe_load_all(path.read_text()) if one["kind"] == "InferenceService"]
    assert services
    assert [wrong for one in services for wrong in refusals(SERVICE, one)] == []


@pytest.mark.parametrize("name", BAD)
def test_refuses(name):
    bad = BAD[name]
    wrong = answers(bad.spec)
    assert any(each.startswith(f"{bad.field}: ") and bad.says in each for each in wrong), wrong


@pytest.mark.parametrize("name", UNKNOWN)
def test_knows_no(name):
    spec, field = UNKNOWN[name]
    assert answers(spec) == [f"{field}: unknown field"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_refuses_the_name(name):
    assert any(BAD_NAMES[name] in each for each in answers(MODEL, name))


def test_takes_a_name_of_forty_characters():
    assert answers(MODEL, "a" * 40) == []


def test_says_everything_that_is_wrong_at_once():
    wrong = answers(MODEL | {"slo": {"ttft": "now"}, "rollout": {"maxSurge": 0}, "prefill": {}})
    assert [each.partition(":")[0] for each in wrong] == ["spec", "spec.slo.ttft", "spec.rollout"]


def test_keeps_what_kubernetes_itself_checks():
    template = {"spec": {"affinity": {"nodeAffinity": {"anything": [1, 2]}}, "containers": [{"name": "engine"}]}}
    assert answers(MODEL | {"decode": {"template": template}}) == []


def test_a_scaler_keeps_its_role_and_its_service():
    scaler = {"spec": {"service": "qwen", "role": "decode", "replicas": 1}}
    assert refusals(SCALER, scaler, old=scaler) == []
    assert refusals(SCALER, {"spec": scaler["spec"] | {"replicas": 4}}, old=scaler) == []
    wrong = refusals(SCALER, {"spec": scaler["spec"] | {"role": "prefill"}}, old=scaler)
    assert wrong == ["spec: service and role cannot be changed: scale the RoleScaler of the other role instead"]

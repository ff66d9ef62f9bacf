"""A user's template beside what pods need."""

from __future__ import annotations

import pytest

from penstock_operator.desired.build import build_children
from penstock_operator.errors import SpecError
from support.operator_services import SMALL, build_defaults, build_service


def template(**given):
    """The whole pod template of a role whose user has written `given`."""
    service = build_service(SMALL | {"decode": {"template": given}})
    [workload] = build_children(service, build_defaults()).workloads
    return workload.manifest["spec"]["template"]


def pod(**spec):
    return template(spec=spec)["spec"]


def test_single_values_and_objects_are_added():
    found = pod(nodeSelector={"pool": "a"}, priorityClassName="high", securityContext={"runAsUser": 1000})
    assert (found["nodeSelector"], found["priorityClassName"]) == ({"pool": "a"}, "high")
    assert found["securityContext"]["runAsUser"] == 1000
    assert found["securityContext"]["runAsNonRoot"] is True


def test_lists_of_named_things_merge_by_name():
    found = pod(
        containers=[
            {"name": "penstock", "env": [{"name": "HOME", "value": "/scratch"}, {"name": "X", "value": "1"}]},
            {"name": "sidecar", "image": "s:1"},
        ]
    )
    engine, sidecar = found["containers"]
    env = {variable["name"]: variable.get("value") for variable in engine["env"]}
    assert engine["args"][0] == "serve"
    assert (env["HOME"], env["X"]) == ("/scratch", "1")
    assert "POD_NAME" in env
    assert sidecar == {"name": "sidecar", "image": "s:1"}


def test_a_volume_of_the_user_takes_the_place_of_ours():
    found = pod(volumes=[{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}}])
    assert [volume for volume in found["volumes"] if volume["name"] == "tmp"] == [
        {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}}
    ]


def test_tolerations_add_to_ours():
    mine = {"key": "nvidia.com/gpu", "operator": "Exists"}
    tolerations = pod(tolerations=[mine])["tolerations"]
    assert mine in tolerations
    assert len(tolerations) == 3


def test_other_lists_are_the_users():
    assert pod(dnsConfig={"nameservers": ["10.0.0.1"]})["dnsConfig"] == {"nameservers": ["10.0.0.1"]}
    probe = {"httpGet": {"path": "/x", "port": 1}}
    engine = pod(containers=[{"name": "penstock", "livenessProbe": probe}])["containers"][0]
    assert engine["livenessProbe"]["httpGet"] == probe["httpGet"]
    assert engine["livenessProbe"]["periodSeconds"] == 10


def test_a_probe_a_hook_or_a_variable_of_another_form_takes_the_place_of_ours():
    command = {"exec": {"command": ["true"]}}
    probes = {"livenessProbe": command, "lifecycle": {"preStop": command}}
    value = {"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    engine = pod(containers=[{"name": "penstock", **probes, "env": [value]}])["containers"][0]
    assert "httpGet" not in engine["livenessProbe"]
    assert engine["livenessProbe"]["periodSeconds"] == 10
    assert engine["lifecycle"]["preStop"] == command
    assert value in engine["env"]


def test_a_null_takes_away_what_we_have():
    engine = pod(containers=[{"name": "penstock", "startupProbe": None}])["containers"][0]
    assert "startupProbe" not in engine


def test_labels_and_annotations_are_added_and_ours_stay():
    found = template(metadata={"labels": {"team": "a", "app.kubernetes.io/name": "b"}, "annotations": {"x/y": "z"}})
    assert found["metadata"]["labels"]["team"] == "a"
    assert found["metadata"]["labels"]["app.kubernetes.io/name"] == "penstock"
    assert found["metadata"]["annotations"]["x/y"] == "z"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": [{"image": "s:1"}]}, r"spec\.decode\.template\.spec\.containers\[0\]: needs a name"),
        ({"containers": [{"name": "penstock", "args": []}]}, r"containers\[0\]\.args: .*spec\.engine\.args"),
        ({"containers": {"name": "x"}}, r"spec\.decode\.template\.spec\.containers: expected a list"),
        ({"securityContext": "none"}, r"spec\.decode\.template\.spec\.securityContext: expected an object"),
    ],
)
def test_what_has_the_wrong_form_is_refused_with_its_place(spec, message):
    with pytest.raises(SpecError, match=message):
        pod(**spec)

"""The operator's chart as Helm renders it. After a change on purpose: `UPDATE_GOLDENS=1 pytest tests/charts`, and read
the difference."""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from penstock_operator.api.parse import parse_service
from penstock_operator.autoscale.api_service import ASKED
from penstock_operator.cluster.store import operator_class_of
from penstock_operator.settings import Settings
from support.local_cluster import ROOT, tool

CHART = ROOT / "charts/penstock"
GOLDEN = Path(__file__).parent / "golden"
VALUES = {
    "default": (),
    "everything": (
        "namespaces={blue,green}",
        "replicas=2",
        "podMonitor.enabled=true",
        "operatorClass=blue",
        "masterKey.existingSecret=mine",
        "serviceAccount.name=robot",
        "args={--log-level=debug}",
        "imagePullSecrets[0].name=pull",
        "podLabels.team=a",
        "nodeSelector.pool=system",
        "keda.enabled=true",
        "externalMetrics.enabled=true",
        "externalMetrics.existingSecret=certificate",
        "externalMetrics.caBundle=Q0E=",
    ),
}
NEW_KEY = re.compile(r"^  key: \S+$", re.MULTILINE)  # another one at each rendering

pytestmark = pytest.mark.skipif(tool("helm") is None, reason="no helm in the PATH or in the cluster-tools")


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tool("helm")), *words], capture_output=True, text=True, timeout=60)


def render(*values: str) -> str:
    sets = [word for value in values for word in ("--set", value)]
    done = helm("template", "penstock", str(CHART), "--namespace", "penstock-system", *sets)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(*values: str) -> dict[tuple[str, str], dict]:
    """By kind and name."""
    found = (each for each in yaml.safe_load_all(render(*values)) if each)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


@pytest.mark.parametrize("case", VALUES)
def test_it_renders_what_was_agreed_on(case):
    rendered, golden = NEW_KEY.sub("  key: NEW", render(*VALUES[case])), GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_GOLDENS"):
        golden.write_text(rendered)
    assert rendered == golden.read_text()


@pytest.mark.parametrize("chart", ["penstock", "penstock-crds"])
def test_helm_finds_nothing_wrong_with_it(chart):
    done = helm("lint", "--strict", str(ROOT / "charts" / chart))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("replica=2", "replica"),
        ("replicas=-1", "replicas"),
        ("image.pullPolicy=Sometimes", "pullPolicy"),
        ("namespaces={Not A Name}", "namespaces"),
        ("args={run}", "args"),
        ("image.tag=7", "image/tag"),
        ("clusterDomain=", "clusterDomain"),
        ("operatorClass=Blue Team", "operatorClass"),
        ("keda.scalerAddress=http://keda", "scalerAddress"),
        ("externalMetrics.caBundle=not base64!", "caBundle"),
        ("resources.limit.memory=1Gi", "limit"),
        ("nodeSelector.pool=true", "nodeSelector"),
        ("tolerations={all}", "tolerations"),
        ("serviceAccount.name=Not A Name", "serviceAccount"),
        ("masterKey.existingSecret=Not A Name", "existingSecret"),
        ("runtime.image.tag=bad tag", "tag"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(value, said):
    done = helm("template", "penstock", str(CHART), "--set", value)
    assert done.returncode != 0
    assert said in done.stderr


def test_every_flag_of_the_deployment_is_one_of_the_operator():
    (container,) = objects(*VALUES["everything"])["Deployment", "penstock"]["spec"]["template"]["spec"]["containers"]
    run, *flags = container["args"]
    known = {name.replace("_", "-") for name in Settings.__dataclass_fields__}
    assert run == "run"
    assert {flag.removeprefix("--").partition("=")[0] for flag in flags} <= known


def test_rights_end_at_the_namespaces_that_are_named():
    assert not [kind for kind, _ in objects("namespaces={blue}") if kind.startswith("Cluster")]


def test_the_operator_cannot_read_secrets_nor_touch_roles():
    for (kind, _), manifest in objects().items():
        for rule in manifest.get("rules", ()) if kind.endswith("Role") else ():
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
            assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert not {"get", "list", "watch", "update", "delete"} & set(rule["verbs"])


def test_the_operator_has_its_certificate_believed_and_may_change_nothing_else_of_an_apiservice():
    made = objects("externalMetrics.enabled=true")
    (api,) = (each for (kind, _), each in made.items() if kind == "APIService")
    assert "caBundle" not in api["spec"]
    assert api["metadata"]["annotations"] == dict([ASKED])
    assert {"ca.crt", "tls.crt", "tls.key"} == made["Secret", "penstock-metrics"]["data"].keys()
    assert apiservice_verbs(made) == {api["metadata"]["name"]: ["get", "patch"]}


@pytest.mark.parametrize(
    "value", ["externalMetrics.caBundle=Q0E=", "externalMetrics.apiServiceAnnotations.injector=system/certificate"]
)
def test_where_others_see_to_what_is_believed_the_operator_only_looks(value):
    made = objects("externalMetrics.enabled=true", value)
    (api,) = (each for (kind, _), each in made.items() if kind == "APIService")
    assert ASKED[0] not in api["metadata"].get("annotations", {})
    assert apiservice_verbs(made) == {api["metadata"]["name"]: ["get"]}


def apiservice_verbs(made: dict[tuple[str, str], dict]) -> dict[str, list[str]]:
    """What the operator may do with APIServices, by their name."""
    rules = (rule for (kind, _), each in made.items() if kind == "ClusterRole" for rule in each["rules"])
    return {rule["resourceNames"][0]: rule["verbs"] for rule in rules if rule["resources"] == ["apiservices"]}


def test_each_installation_has_a_long_key_of_its_own():
    keys = {objects()["Secret", "penstock-key"]["data"]["key"] for _ in range(2)}
    assert [len(base64.b64decode(key)) for key in keys] == [64, 64]


@pytest.mark.parametrize("values", [(), ("operatorClass=blue", "namespaces={team}")], ids=["default", "narrowed"])
def test_the_notes_show_a_service_that_this_operator_looks_after(values):
    sets = [word for value in values for word in ("--set", value)]
    done = helm("install", "penstock", str(CHART), "--dry-run=client", "--namespace", "penstock-system", *sets)
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("NOTES:")[2]
    assert "helm install penstock-crds" in notes  # a dry run sees no cluster
    example = yaml.safe_load(notes.partition("<<X\n")[2].partition("  X\n")[0])
    example["metadata"] |= {"namespace": "team", "uid": "1", "generation": 1}
    assert parse_service(example).key.name == "demo"
    assert operator_class_of(example["metadata"]) == ("blue" if values else "")
    assert ("kubectl apply -n team -f" in notes) == bool(values)

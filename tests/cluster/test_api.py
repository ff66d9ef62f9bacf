"""What a real API server makes of the definitions: which objects it takes, and what it says about the others."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.bad_specs import BAD, BAD_NAMES, UNKNOWN
from support.good_specs import GOOD, MODEL

ROOT = Path(__file__).parent.parent.parent
ANNOTATION_LIMIT = 262_144  # bytes of all annotations of an object; `kubectl apply` keeps the whole object in one
SCALER = {"service": "qwen", "role": "decode", "replicas": 2}
STATUS = {"observedGeneration": 1, "replicas": 1, "selector": "penstock.dev/service=qwen", "desired": 2}


pytestmark = pytest.mark.usefixtures("definitions")  # as the chart has them


def service(name: str, spec: object) -> dict[str, object]:
    parts = {} if spec is None else {"spec": spec}
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name}} | parts


def scaler(**spec: object) -> dict[str, object]:
    metadata = {"name": "qwen-decode"}
    return {"apiVersion": "penstock.dev/v1alpha1", "kind": "RoleScaler", "metadata": metadata, "spec": SCALER | spec}


def refusal(cluster, namespace, manifest, *words: str) -> str:
    """What kubectl says of an object that must not be taken."""
    done = cluster.run("kubectl", "apply", "-n", namespace, *words, "-f", "-", text=json.dumps(manifest))
    assert done.returncode != 0, f"taken: {manifest}"
    return done.stderr


def test_good_specs_are_taken_and_not_changed(cluster, namespace):
    manifests = [service(f"good-{number}", spec) for number, spec in enumerate(GOOD.values())]
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text="\n---\n".join(map(json.dumps, manifests)))
    taken = {item["metadata"]["name"]: item["spec"] for item in cluster.items("psvc", namespace)}
    assert taken == {manifest["metadata"]["name"]: manifest["spec"] for manifest in manifests}


def test_the_examples_are_taken(cluster, namespace):
    cluster.kubectl("apply", "-n", namespace, "--dry-run=server", "-f", str(ROOT / "examples"))


def test_the_chart_is_sound(cluster):
    chart = str(ROOT / "charts/penstock-crds")
    assert cluster.run("kubectl", "diff", "-f", "-", text=cluster.helm("template", "crds", chart)).returncode == 0
    kept = cluster.helm("template", "crds", chart, "--set", "annotations.team=search")
    assert kept.count("helm.sh/resource-policy: keep\n    team: search\n") == 2
    assert "resource-policy" not in cluster.helm("template", "crds", chart, "--set", "keep=false")
    cluster.helm("lint", "--strict", chart)
    assert cluster.run("helm", "template", "crds", chart, "--set", "keep=maybe").returncode != 0


def test_bad_specs_are_refused_with_the_field_and_what_to_write(cluster, namespace):
    manifests = [service(f"bad-{number}", bad.spec) for number, bad in enumerate(BAD.values())]
    text = "\n---\n".join(map(json.dumps, manifests))
    done = cluster.run("kubectl", "create", "-n", namespace, "-f", "-", text=text)
    answers = dict(re.findall(r'"(bad-\d+)" is invalid: (.+)$', done.stderr, re.MULTILINE))
    for number, (name, bad) in enumerate(BAD.items()):
        answer = answers.get(f"bad-{number}", "")
        assert f"{bad.field}: " in answer, f"{name}: {answer}"
        assert bad.says in answer, f"{name}: {answer}"
    assert done.stdout == ""


@pytest.mark.parametrize("words", [(), ("--server-side",)])
def test_unknown_fields_are_refused_by_name(cluster, namespace, words):
    for spec, field in UNKNOWN.values():
        answer = refusal(cluster, namespace, service("bad", spec), *words)
        assert field in answer
        assert "unknown field" in answer or "not declared in schema" in answer


def test_names_that_children_cannot_have_are_refused(cluster, namespace):
    for name, says in BAD_NAMES.items():
        assert says in refusal(cluster, namespace, service(name, MODEL))
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(service("a" * 40, MODEL)))


def test_a_new_object_has_been_observed_by_nobody(cluster, namespace):
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(service("qwen", MODEL)))
    assert cluster.get("psvc", "qwen", namespace)["status"] == {"observedGeneration": -1}


def test_a_role_is_scaled_through_its_scaler(cluster, namespace):
    cluster.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(scaler()))
    patch = json.dumps({"status": STATUS})
    cluster.kubectl("patch", "prs", "qwen-decode", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    cluster.kubectl("scale", "rolescaler", "qwen-decode", "-n", namespace, "--replicas=5")
    path = f"/apis/penstock.dev/v1alpha1/namespaces/{namespace}/rolescalers/qwen-decode/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path))
    assert scale["spec"] == {"replicas": 5}
    assert scale["status"] == {"replicas": 1, "selector": "penstock.dev/service=qwen"}


def test_bad_scalers_are_refused(cluster, namespace):
    assert "greater than or equal to 0" in refusal(cluster, namespace, scaler(replicas=-1))
    assert "less than or equal to 10000" in refusal(cluster, namespace, scaler(replicas=10**9))
    assert "Unsupported value" in refusal(cluster, namespace, scaler(role="encode"))
    without = scaler()
    without["spec"] = {"service": "qwen", "role": "decode"}
    assert "spec.replicas: Required value" in refusal(cluster, namespace, without)
    cluster.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(scaler()))
    assert "service and role cannot be changed" in refusal(cluster, namespace, scaler(role="prefill"))
    done = cluster.run("kubectl", "scale", "prs", "qwen-decode", "-n", namespace, "--replicas=20000")
    assert "less than or equal to 10000" in done.stderr


def test_an_apply_that_leaves_replicas_out_leaves_them_alone(cluster, namespace):
    cluster.kubectl("create", "-n", namespace, "-f", "-", text=json.dumps(scaler(replicas=7)))
    manifest = scaler()
    manifest["spec"] = {"service": "qwen", "role": "decode"}
    words = ("--server-side", "--field-manager=penstock-operator", "--force-conflicts")
    cluster.kubectl("apply", "-n", namespace, *words, "-f", "-", text=json.dumps(manifest))
    assert cluster.get("prs", "qwen-decode", namespace)["spec"]["replicas"] == 7


def test_kubectl_shows_what_people_look_for(cluster, namespace):
    cluster.kubectl("apply", "-n", namespace, "-f", "-", text=json.dumps(service("qwen", MODEL)))
    header, row = cluster.kubectl("get", "psvc", "-n", namespace, "-o", "wide").splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "PODS", "MODEL", "REVISION", "URL", "MESSAGE", "AGE"]
    assert "hf://Qwen/Qwen3-8B" in row
    assert "name that clients use" in cluster.kubectl("explain", "psvc.spec.model.servedName")
    assert "qwen" in cluster.kubectl("get", "penstock", "-n", namespace)


def test_kubectl_apply_takes_the_definitions_and_can_keep_them_in_an_annotation(cluster):
    done = cluster.run("kubectl", "apply", "-f", str(ROOT / "crds"), "--dry-run=server", "-o", "json")
    assert done.returncode == 0, done.stderr
    for item in json.loads(done.stdout)["items"]:
        kept = item["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"]
        assert 1_000 < len(kept) < ANNOTATION_LIMIT / 4

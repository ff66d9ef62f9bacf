"""Every pod passes the Pod Security Standard `restricted`, written down here from its definition
(kubernetes.io/docs/concepts/security/pod-security-standards); RDMA alone may not."""

from __future__ import annotations

import pytest

from penstock_operator.desired.build import build_children
from penstock_operator.service import Manifest
from support.operator_services import EXAMPLES, build_defaults, load_example, pod_specs

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
ADDABLE = {"NET_BIND_SERVICE"}


def violations(spec: Manifest) -> list[str]:
    """What `restricted` would refuse about a pod."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    for volume in spec.get("volumes", []):
        found += [f"volume {volume['name']} is a {kind}" for kind in set(volume) - {"name"} - VOLUMES]
    shared = spec.get("securityContext", {})
    for each in [*spec.get("initContainers", []), *spec["containers"]]:
        own = each.get("securityContext", {})
        found += [f"{each['name']}: {what}" for what in container_violations({**shared, **own})]
        found += [f"{each['name']}: a host port" for port in each.get("ports", []) if port.get("hostPort")]
    return found


def container_violations(context: Manifest) -> list[str]:
    """The same about one container; `context`: its own security context over the pod's."""
    capabilities = context.get("capabilities", {})
    wrong = {
        "may gain privileges": context.get("allowPrivilegeEscalation") is not False,
        "is privileged": bool(context.get("privileged")),
        "may be root": context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0,
        "has no seccomp profile": context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
        "keeps capabilities": "ALL" not in capabilities.get("drop", []),
        "adds capabilities": not set(capabilities.get("add", [])) <= ADDABLE,
    }
    return [what for what, is_wrong in wrong.items() if is_wrong]


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.stem != "rdma"], ids=lambda path: path.stem)
def test_pods_of_an_example_are_restricted(path):
    pods = pod_specs(build_children(load_example(path), build_defaults()))
    assert {name: violations(spec) for name, spec in pods.items()} == {name: [] for name in pods}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_our_containers_cannot_write_to_their_image_and_no_pod_has_a_token(path):
    for spec in pod_specs(build_children(load_example(path), build_defaults())).values():
        assert spec["automountServiceAccountToken"] is False
        for each in [*spec.get("initContainers", []), *spec["containers"]]:
            if each.get("command") == ["penstock"]:
                assert each["securityContext"]["readOnlyRootFilesystem"] is True


def test_rdma_opts_out_for_the_pods_that_move_blocks_alone():
    path = next(path for path in EXAMPLES if path.stem == "rdma")
    pods = pod_specs(build_children(load_example(path), build_defaults()))
    assert {name.split("-")[1] for name, spec in pods.items() if violations(spec)} == {"prefill", "decode"}
    assert {what for spec in pods.values() for what in violations(spec)} == {"penstock: adds capabilities"}

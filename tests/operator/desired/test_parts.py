"""Flags, Services, policies, routers and what others watch, as far as goldens alone do not say why."""

from __future__ import annotations

import pytest

from penstock_operator import kinds, names
from penstock_operator.desired.build import build_children
from penstock_operator.desired.quantity import whole
from penstock_operator.errors import SpecError
from support.operator_services import PAIR, SMALL, build_defaults, build_service

NO_ROUTER = {"router": {"enabled": False}}
GATEWAY = {"parents": [{"name": "internet"}]}
KEYS = {"security": {"apiKeysSecret": "keys"}}


def build(spec, **defaults):
    return build_children(build_service(spec), build_defaults(**defaults))


def find(children, kind, name):
    [found] = [found for found in children.applied if found["kind"] == kind.kind and found["metadata"]["name"] == name]
    return found["spec"]


def engine_args(spec):
    return build(spec).workloads[-1].manifest["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("2Gi", 2 << 30), (7, 7), ("1500m", 2), ("0.5k", 500), ("1.5Mi", 3 << 19), ("4G", 4 * 10**9)],
)
def test_quantities_are_kubernetes_own(quantity, number):
    assert whole(quantity, "field") == number


def test_a_size_is_told_in_bytes_because_the_runtime_reads_units_differently():
    assert "--kv-cache-memory=4000000000" in engine_args(SMALL | {"engine": {"kvCacheMemory": "4G"}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"engine": {"args": ["--max-num-seqs=8", "--role=both"]}},
            r"spec\.engine\.args\[1\]: --role .*operator sets it",
        ),
        ({"engine": {"args": ["--dtype", "float32"]}}, r"spec\.engine\.args\[0\]: .*write spec\.engine\.dtype"),
        ({"router": {"args": ["--tls-key=x"]}}, r"spec\.router\.args\[0\]: .*write spec\.security\.tls"),
        (NO_ROUTER | KEYS, r"spec\.security\.apiKeysSecret: only the router"),
        ({"router": {"gateway": GATEWAY | {"inferencePool": True}}} | KEYS, "inferencePool: .*leads past the router"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_and_what_to_do(change, message):
    with pytest.raises(SpecError, match=message) as caught:
        build(SMALL | change)
    assert caught.value.reason == "InvalidSpec"


def test_users_flags_come_last_and_as_they_are():
    assert engine_args(SMALL | {"engine": {"args": ["--max-num-seqs", "8"]}})[-2:] == ["--max-num-seqs", "8"]


def test_pods_of_a_service_reach_each_other_on_all_ports_because_nixl_chooses_its_own():
    [siblings, operator, prometheus] = _flat(find(build(PAIR), kinds.NETWORK_POLICY, "chat-pods"))
    assert siblings == ({"podSelector": {"matchLabels": {names.SERVICE: "chat"}}}, None)
    assert operator[1] == prometheus[1] == names.INTERNAL_PORT
    assert "penstock-system" in str(operator[0])


def _flat(policy):
    """(peer, port or None) of each rule."""
    return [
        (peer, port.get("port"))
        for rule in policy["ingress"]
        for peer in rule.get("from", [None])
        for port in rule.get("ports", [{}])
    ]


def test_everybody_reaches_the_router_unless_clients_are_named():
    assert (None, 8000) in _flat(find(build(SMALL), kinds.NETWORK_POLICY, "chat-router"))
    peer = {"podSelector": {"matchLabels": {"app": "web"}}}
    named = build(SMALL | {"security": {"networkPolicy": {"clients": [peer]}}})
    rules = _flat(find(named, kinds.NETWORK_POLICY, "chat-router"))
    assert (peer, 8000) in rules
    assert (None, 8000) not in rules
    assert (peer, 8000) not in _flat(find(named, kinds.NETWORK_POLICY, "chat-pods"))


@pytest.mark.parametrize(
    "change", [NO_ROUTER, {"router": {"gateway": GATEWAY | {"inferencePool": True}}}], ids=["no router", "pool"]
)
def test_clients_reach_pods_where_nothing_stands_before_them(change):
    assert (None, 8000) in _flat(find(build(SMALL | change), kinds.NETWORK_POLICY, "chat-pods"))


def test_policies_can_be_left_to_others():
    children = build(SMALL | {"security": {"networkPolicy": {"enabled": False}}})
    assert not [found for found in children.applied if found["kind"] == "NetworkPolicy"]


def test_where_keys_are_needed_pods_take_clients_from_nobody_but_the_router():
    assert "--host=127.0.0.1" in engine_args(SMALL | KEYS)
    assert "--host=::" in engine_args(SMALL)


def test_addresses_of_roles_include_pods_that_are_not_ready_because_draining_ones_are_still_used():
    service = find(build(PAIR), kinds.SERVICE, "chat-decode")
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert names.REVISION not in service["selector"]


def test_clients_reach_the_router_or_the_pods_that_own_requests():
    assert find(build(PAIR), kinds.SERVICE, "chat")["selector"][names.COMPONENT] == "router"
    assert find(build(PAIR | NO_ROUTER), kinds.SERVICE, "chat")["selector"][names.ROLE] == "decode"
    assert find(build(SMALL | NO_ROUTER), kinds.SERVICE, "chat")["selector"][names.ROLE] == "both"


def test_https_has_its_own_port_and_probes():
    children = build(SMALL | {"security": {"tls": {"secretName": "cert"}}})
    assert find(children, kinds.SERVICE, "chat")["ports"][0]["port"] == 443
    assert children.router is not None
    container = children.router.manifest["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert find(children, kinds.POD_MONITOR, "chat-router")["podMetricsEndpoints"][0]["scheme"] == "https"


def test_a_router_finds_pods_of_old_and_new_roles_alike():
    routers = [build(spec).router for spec in (SMALL, PAIR)]
    assert routers[0] == routers[1]


def test_a_router_holds_requests_for_as_long_as_a_first_pod_may_take():
    scaling = {"autoscaling": {"mode": "Builtin", "scaleToZeroAfter": "5m"}}
    router = build({"model": SMALL["model"], "decode": {}} | scaling).router
    assert "--hold-seconds=900" in str(router)


@pytest.mark.parametrize(
    ("gateway", "apis", "message"),
    [
        (GATEWAY, {kinds.INFERENCE_POOL}, r"spec\.router\.gateway: .*no HTTPRoute .*install Gateway API"),
        (GATEWAY | {"inferencePool": True}, {kinds.HTTP_ROUTE}, r"inferencePool: .*no InferencePool"),
    ],
)
def test_a_cluster_without_the_api_is_said_to_have_none(gateway, apis, message):
    with pytest.raises(SpecError, match=message) as caught:
        build(SMALL | {"router": {"gateway": gateway}}, apis=frozenset(apis))
    assert caught.value.reason == "ApiMissing"


def test_a_route_leads_to_the_pool_where_there_is_one():
    pooled = build(SMALL | {"router": {"enabled": False, "gateway": GATEWAY | {"inferencePool": True}}})
    [backend] = find(pooled, kinds.HTTP_ROUTE, "chat")["rules"][0]["backendRefs"]
    assert backend == {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"}
    assert find(pooled, kinds.INFERENCE_POOL, "chat")["endpointPickerRef"]["name"] == "chat-epp"


def test_nodes_can_always_be_drained():
    for name in ("chat-prefill", "chat-decode", "chat-router"):
        budget = find(build(PAIR), kinds.DISRUPTION_BUDGET, name)
        assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")

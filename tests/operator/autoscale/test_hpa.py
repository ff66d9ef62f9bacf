from __future__ import annotations

from penstock_operator.autoscale.hpa import build_autoscalers
from penstock_operator.kinds import SCALED_OBJECT
from support.operator_services import PAIR, build_service

APIS = frozenset({SCALED_OBJECT})
SCALED = {name: part for name, part in PAIR.items() if name not in ("prefill", "decode")} | {
    "prefill": {},
    "decode": {},
}


def built(mode: str, *, apis=APIS, address: str = "penstock.penstock-system:6000", **autoscaling):
    ranges = {"prefill": {"min": 1, "max": 4}, "decode": {"min": 2, "max": 8}}
    service = build_service(SCALED | {"autoscaling": {"mode": mode} | ranges | autoscaling})
    return build_autoscalers(service, apis=apis, scaler_address=address)


def test_in_mode_hpa_each_role_gets_one_that_writes_its_role_scaler():
    prefill, decode = built("HPA", windows={"down": "2m"})
    assert [one["metadata"]["name"] for one in (prefill, decode)] == ["chat-prefill", "chat-decode"]
    spec = decode["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": "penstock.dev/v1alpha1",
        "kind": "RoleScaler",
        "name": "chat-decode",
    }
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 8)
    external = spec["metrics"][0]["external"]
    assert external["metric"]["selector"]["matchLabels"] == {"service": "chat", "role": "decode"}
    assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 120


def test_limits_are_as_wide_as_any_schedule_may_set_them():
    schedule = {"name": "day", "start": "0 8 * * *", "duration": "8h", "decode": {"min": 1, "max": 20}}
    spec = built("HPA", schedules=[schedule])[1]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 20)


def test_in_mode_keda_each_role_gets_a_scaled_object_with_our_address():
    _prefill, decode = built("KEDA", scaleToZeroAfter="10m")
    spec = decode["spec"]
    assert spec["triggers"] == [
        {
            "type": "external",
            "metadata": {"scalerAddress": "penstock.penstock-system:6000", "service": "chat", "role": "decode"},
        }
    ]
    assert (spec["minReplicaCount"], spec["idleReplicaCount"], spec["cooldownPeriod"]) == (2, 0, 600)


def test_without_kedas_api_or_our_address_there_is_none():
    assert built("KEDA", apis=frozenset()) == ()
    assert built("KEDA", address="") == ()


def test_other_modes_need_none():
    assert built("Builtin") == ()
    assert built("Advisory") == ()

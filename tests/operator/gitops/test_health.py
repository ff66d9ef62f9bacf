"""What Argo CD and Flux make of statuses that the operator really wrote."""

from __future__ import annotations

from pathlib import Path

import cel
import pytest
import yaml
from lupa.lua51 import LuaRuntime  # what Argo CD runs is Lua 5.1

from penstock_operator.kinds import INFERENCE_SERVICE, SERVICE
from penstock_operator.names import Key
from support.operator_run import OperatorRun

FOLDER = Path(__file__).parent.parent.parent.parent / "docs/gitops"


def argo(service: dict) -> tuple[str, str]:
    lua = LuaRuntime()
    health = lua.execute(f"return function(obj) {(FOLDER / 'argocd-health.lua').read_text()}\nend")
    found = health(lua.table_from(service, recursive=True))
    return found["status"], found["message"]


def flux(service: dict) -> str:
    """The one of the three expressions that is true."""
    checks = yaml.safe_load((FOLDER / "flux-health.yaml").read_text())["spec"]["healthCheckExprs"]
    check = next(one for one in checks if one["kind"] == service["kind"] and one["apiVersion"] == service["apiVersion"])
    true = [name for name in ("inProgress", "failed", "current") if cel.evaluate(check[name], service) is True]
    assert len(true) == 1, true
    return true[0]


@pytest.fixture
def run() -> OperatorRun:
    return OperatorRun()


def service_of(run: OperatorRun, key: Key) -> dict:
    found = run.api.find(INFERENCE_SERVICE, key.name)
    assert found is not None
    return found


def test_before_an_operator_has_seen_it_both_wait(run):
    service = service_of(run, run.create())
    assert argo(service) == ("Progressing", "no operator has seen this spec yet")
    assert flux(service) == "inProgress"


def test_while_pods_start_both_wait_and_argo_says_for_what(run):
    key = run.create()
    run.work()
    status, message = argo(service_of(run, key))
    assert status == "Progressing"
    assert "0 of 2 pods are ready" in message
    assert flux(service_of(run, key)) == "inProgress"


def test_a_service_that_is_as_it_should_be_is_healthy(run):
    key = run.create()
    run.settle()
    assert argo(service_of(run, key)) == ("Healthy", "2 of 2 pods are ready")
    assert flux(service_of(run, key)) == "current"


def test_a_new_spec_is_waited_for_even_if_everything_is_well_with_the_old_one(run):
    key = run.create()
    run.settle()
    run.edit(key, {"decode": {"replicas": 3}})
    assert argo(service_of(run, key))[0] == "Progressing"
    assert flux(service_of(run, key)) == "inProgress"


def test_what_only_a_person_can_help_with_has_failed(run):
    run.api.post(
        {"apiVersion": SERVICE.api_version, "kind": "Service", "metadata": {"name": "chat", "namespace": "default"}}
    )
    key = run.create()
    run.settle()
    status, message = argo(service_of(run, key))
    assert status == "Degraded"
    assert "does not belong to this InferenceService" in message
    assert flux(service_of(run, key)) == "failed"


def test_a_suspended_service_is_suspended_and_nothing_to_wait_for(run):
    key = run.create()
    run.settle()
    run.edit(key, {"suspend": True})
    run.settle(30)
    assert argo(service_of(run, key))[0] == "Suspended"
    assert flux(service_of(run, key)) == "current"


def test_a_paused_rollout_is_suspended(run):
    key = run.create()
    run.settle()
    run.edit(key, {"model": {"source": "hf://org/other"}, "rollout": {"paused": True}})
    run.settle(4)
    assert argo(service_of(run, key))[0] == "Suspended"
    assert flux(service_of(run, key)) == "inProgress"

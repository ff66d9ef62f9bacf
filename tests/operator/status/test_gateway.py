"""A Gateway that does not lead to a service: the service serves, and its condition says why nobody comes that way."""

from __future__ import annotations

from penstock_operator.kinds import HTTP_ROUTE
from support.operator_run import OperatorRun

SERVICE = """
apiVersion: penstock.dev/v1alpha1
kind: InferenceService
metadata: {name: chat}
spec:
  model: {source: hf://org/model}
  router: {gateway: {parents: [{name: internet}]}}
"""


def parent(kind: str, status: str, reason: str = "Accepted", message: str = "") -> dict:
    condition = {"type": kind, "status": status, "reason": reason, "message": message}
    return {"parentRef": {"name": "internet"}, "conditions": [condition]}


def test_what_a_gateway_says_of_its_route_is_told_while_the_service_stays_ready():
    run = OperatorRun(optional=(HTTP_ROUTE,))
    key = run.create(SERVICE)
    run.settle()
    assert "Gateway" not in run.condition(key, "Ready")["message"]
    refused = parent("Accepted", "False", "NotAllowedByListeners", "no listener allows routes of namespace default")
    run.api.update(HTTP_ROUTE, "default", "chat", {"status": {"parents": [refused]}})
    run.work()
    ready = run.condition(key, "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Serving")
    assert ready["message"].endswith(
        "Gateway internet does not lead here: NotAllowedByListeners, no listener allows routes of namespace default"
    )
    run.api.update(HTTP_ROUTE, "default", "chat", {"status": {"parents": [parent("ResolvedRefs", "True")]}})
    run.work()
    assert "Gateway" not in run.condition(key, "Ready")["message"]

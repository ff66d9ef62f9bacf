"""A Service of somebody else where clients would find ours: pods that serve are no use to them."""

from __future__ import annotations

import pytest

from penstock_operator.kinds import SERVICE
from support.operator_run import OperatorRun


@pytest.mark.parametrize(
    "labels", [{}, {"penstock.dev/service": "chat", "app.kubernetes.io/managed-by": "penstock-operator"}]
)
def test_the_service_is_not_ready_until_it_has_gone(labels):
    run = OperatorRun()
    theirs = {"name": "chat", "namespace": "default", "labels": labels}
    run.api.post({"apiVersion": "v1", "kind": "Service", "metadata": theirs, "spec": {"ports": [{"port": 1}]}})
    key = run.create()
    run.settle()
    ready = run.condition(key, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ForeignObject")
    run.api.remove(SERVICE, "default", "chat")
    run.settle()
    assert run.condition(key, "Ready")["status"] == "True"

"""What the operator did with the rights that its chart gives it, over all tests before this one."""

from __future__ import annotations

import itertools
import json

import pytest

OPERATOR = "app.kubernetes.io/name=penstock-operator"
SYSTEM = "penstock-system"
CREATED = 201  # of a server-side apply, too, which needs the right to create
USERS = {"test_story", "test_parts", "test_gateway", "test_nodes"}  # modules that need them all
Right = tuple[str, str, str]  # API group, resource, verb


def test_the_operator_used_all_its_rights_and_asked_for_no_others(cluster, operator, request):
    if cluster.audit is None:
        pytest.skip("only a cluster of our own notes what the operator does")
    asked, denied = noted(cluster)
    assert not denied, f"denied: {sorted(denied)}"
    ran = {item.path.stem for item in request.session.items}
    if missing := USERS - ran:
        pytest.skip(f"nothing was denied; which rights nobody needs shows only beside {', '.join(sorted(missing))}")
    rights = granted(cluster)
    assert rights
    assert rights <= asked, f"granted and never used: {sorted(rights - asked)}"


def noted(cluster) -> tuple[set[Right], set[Right]]:
    """What was allowed, and what denied, of all that the API server was asked by the operator."""
    asked: set[Right] = set()
    denied: set[Right] = set()
    for line in cluster.audit.read_text().splitlines():
        event = json.loads(line)
        if (what := event.get("objectRef")) is not None:
            resource = "/".join(filter(None, (what["resource"], what.get("subresource"))))
            verbs = {event["verb"], "create"} if event["responseStatus"]["code"] == CREATED else {event["verb"]}
            is_allowed = event["annotations"]["authorization.k8s.io/decision"] == "allow"
            (asked if is_allowed else denied).update((what.get("apiGroup", ""), resource, verb) for verb in verbs)
    return asked, denied


def granted(cluster) -> set[Right]:
    """All that the chart's roles allow."""
    selector = f"{OPERATOR},app.kubernetes.io/instance=penstock"
    roles = [role for kind in ("clusterroles", "roles") for role in cluster.items(kind, SYSTEM, "-l", selector)]
    return {
        right
        for role in roles
        for rule in role["rules"]
        for right in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }

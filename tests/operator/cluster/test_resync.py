from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest

from penstock_operator.cluster.resync import ALWAYS, selector_of
from penstock_operator.errors import ApiError
from penstock_operator.health import SILENT_SECONDS, Health, serve
from penstock_operator.kinds import DEPLOYMENT, INFERENCE_SERVICE, POD_MONITOR, ROLE_SCALER, SECRET
from penstock_operator.names import SERVICE
from support.operator_run import OperatorRun


@pytest.fixture
def run():
    return OperatorRun()


def test_everything_is_looked_at_again_after_each_list(run):
    key = run.create()
    run.settle()
    assert run.resync.turn()
    assert run.queue.take(0.0) == key


def test_a_deletion_that_no_watch_told_is_found(run):
    key = run.create()
    run.settle()
    run.api.watchers.clear()
    run.api.remove(INFERENCE_SERVICE, "default", "chat")
    run.resync.turn()
    run.writes()
    run.work()
    assert run.store.services() == []
    assert run.store.children(key) == {}
    assert run.writes() == []
    assert run.health.livez()[0] == 200


def test_a_watch_that_stays_silent_although_the_server_answers_ends_the_process(run):
    run.create()
    run.settle()
    run.api.watchers.clear()
    run.api.update(DEPLOYMENT, "default", "chat-router", {"metadata": {"labels": {"new": "1"}}})
    run.resync.turn()
    assert run.health.has_suspects
    assert run.health.livez()[0] == 200
    run.now += SILENT_SECONDS + 1
    status, why = run.health.livez()
    assert (status, b"deployments" in why) == (503, True)
    run.health.heard(DEPLOYMENT)
    assert run.health.livez()[0] == 200


def test_an_api_server_that_is_away_makes_nobody_unhealthy(run):
    run.create()
    run.settle()
    run.api.is_away = True
    for _ in range(5):
        assert not run.resync.turn()
        run.now += 300.0
    assert (run.health.livez()[0], run.health.readyz()[0]) == (200, 200)


def test_an_operator_is_ready_when_it_has_listed_everything(run):
    run.health = run.resync._health = Health(lambda: 0.0)
    run.api.refuse = lambda verb, kind, name: ApiError(403, "pods is forbidden") if kind == DEPLOYMENT else None
    assert not run.resync.turn()
    assert run.health.readyz()[0] == 503
    run.api.refuse = lambda verb, kind, name: None
    assert run.resync.turn()
    assert run.health.readyz()[0] == 200


def test_missing_definitions_are_said_with_what_to_do(run, caplog):
    run.api.kinds = tuple(kind for kind in run.api.kinds if kind not in (INFERENCE_SERVICE, ROLE_SCALER))
    assert not run.resync.turn()
    assert "helm install penstock-crds" in caplog.text


def test_a_kind_that_comes_later_is_noticed(run):
    told = []
    run.resync._on_kinds = lambda: told.append(run.resync.kinds)
    run.resync.turn()
    assert told == []
    run.api.kinds = (*run.api.kinds, POD_MONITOR)
    run.resync.turn()
    assert told == [(*ALWAYS, POD_MONITOR)]


def test_children_are_selected_by_label_and_secrets_are_never_read(run):
    assert selector_of(DEPLOYMENT) == "app.kubernetes.io/managed-by=penstock-operator"
    assert selector_of(INFERENCE_SERVICE) == ""
    assert SECRET not in run.resync.kinds
    key = run.create()
    run.settle()
    assert not [call for call in run.api.calls if call[1] == "Secret" and call[0] != "apply"]
    assert all(SERVICE in one["metadata"]["labels"] for (kind, _), one in run.store.children(key).items())


def test_probes_and_metrics_answer_over_http(run):
    server = serve(0, {"/livez": run.health.livez, "/metrics": lambda: (200, run.metrics.page())})
    try:
        root = f"http://127.0.0.1:{server.server_address[1]}"
        assert urllib.request.urlopen(f"{root}/livez?verbose=1", timeout=5).read() == b"ok\n"
        run.metrics.tell_call("get", 200, 0.01)
        page = urllib.request.urlopen(f"{root}/metrics", timeout=5).read().decode()
        assert 'penstock_operator_api_calls_total{code="200",verb="get"} 1.0' in page
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{root}/secrets", timeout=5)
        caught.value.close()
        assert caught.value.code == 404
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this kernel has no IPv6")
def test_probes_are_answered_in_clusters_of_either_family(run, host):
    server = serve(0, {"/livez": run.health.livez})
    try:
        assert urllib.request.urlopen(f"http://{host}:{server.server_address[1]}/livez", timeout=5).read() == b"ok\n"
    finally:
        server.shutdown()
        server.server_close()


def test_what_has_changed_is_looked_at_before_everything_that_has_not(run):
    keys = [run.create(name=f"s{number}") for number in range(9)]
    run.settle()
    assert run.resync.turn()
    run.edit(keys[7], {"decode": {"replicas": 3}})
    assert run.queue.take(0.0) == keys[7]

from __future__ import annotations

import itertools
from pathlib import Path

import kopf
import pytest
from kopf._cogs.structs.references import Resource

import penstock_operator.cluster.shell
from penstock_operator.cluster.resync import ALWAYS
from penstock_operator.cluster.shell import build_handler, build_registry
from penstock_operator.cluster.watch_settings import build_settings
from penstock_operator.kinds import DEPLOYMENT, INFERENCE_SERVICE, POD, Kind
from support.operator_run import OperatorRun


@pytest.fixture
def run():
    return OperatorRun()


def resource(kind: Kind) -> Resource:
    version = kind.api_version.rpartition("/")[2]
    return Resource(group=kind.group, version=version, plural=kind.plural, kind=kind.kind, singular=kind.kind.lower())


async def test_what_a_watch_tells_is_kept_and_its_service_looked_at(run):
    key = run.create()
    run.api.watchers.clear()
    run.work()
    manifest = run.api.find(DEPLOYMENT, "chat-router")
    manifest["metadata"]["resourceVersion"] = "1000"
    seen = build_handler(DEPLOYMENT, run.feed)
    assert await seen(event={"type": "MODIFIED", "object": manifest}) is None, "kopf writes results into the status"
    assert run.queue.take(0.0) == key
    run.queue.finish(key)
    await seen(event={"type": "MODIFIED", "object": manifest})
    assert run.queue.take(0.0) is None
    await seen(event={"type": "DELETED", "object": manifest})
    assert run.queue.take(0.0) == key
    assert (DEPLOYMENT, "chat-router") not in run.store.children(key)


async def test_a_watch_that_begins_anew_asks_for_a_list(run):
    run.create()
    service = run.api.find(INFERENCE_SERVICE, "chat")
    await build_handler(INFERENCE_SERVICE, run.feed)(event={"type": "MODIFIED", "object": service})
    assert not run.resync.is_asked_for
    await build_handler(INFERENCE_SERVICE, run.feed)(event={"type": None, "object": service})
    assert run.resync.is_asked_for


def test_watches_select_on_the_servers_side():
    settings = build_settings(ALWAYS)
    selectors = settings.watching.label_selectors
    assert selectors.collect(resource(POD)) == ["app.kubernetes.io/managed-by=penstock-operator"]
    assert selectors.collect(resource(INFERENCE_SERVICE)) == []


def test_kopf_gets_no_reason_to_write_or_to_give_up():
    settings = build_settings(ALWAYS)
    assert settings.posting.enabled is False
    assert settings.scanning.disabled is True
    backoffs = settings.networking.error_backoffs
    assert list(itertools.islice(backoffs, 5)) == [0.5, 1.0, 2.0, 5.0, 5.0]
    assert len(list(itertools.islice(backoffs, 10_000))) == 10_000
    assert not hasattr(backoffs, "__len__"), "kopf counts attempts if it can"


def test_every_kind_has_one_event_handler_and_no_other(run):
    registry = build_registry(ALWAYS, run.feed)
    handlers = registry._watching.get_all_handlers()
    assert {handler.selector.any_name or handler.id for handler in handlers} == {kind.plural for kind in ALWAYS}
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()
    assert isinstance(registry, kopf.OperatorRegistry)


def test_the_shell_stays_thin():
    assert Path(penstock_operator.cluster.shell.__file__).read_text().count("\n") <= 120

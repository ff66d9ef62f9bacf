"""Whether HPAs can reach the operator, and the one field of the APIService that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_operator.autoscale.api_service import OVERLAP_SECONDS, ApiServiceKeeper, certificates
from penstock_operator.errors import ApiError
from penstock_operator.kinds import API_SERVICE
from support.api_services import NAME, api_service, believed
from support.certificates import FIRST, SECOND
from support.memory_api import MemoryApi

SYSTEM = "penstock-system"


class Replica:
    """One operator with its certificate."""

    def __init__(self, api: MemoryApi, folder: Path, certificate: str) -> None:
        folder.mkdir(exist_ok=True)
        self.api, self.folder, self.now = api, folder, 0.0
        self.show(certificate)
        self.keeper = ApiServiceKeeper(api, namespace=SYSTEM, folder=folder, clock=lambda: self.now)

    def show(self, certificate: str) -> None:
        (self.folder / "tls.crt").write_text(certificate)

    def look(self) -> str:
        return self.keeper.look()


@pytest.fixture
def api() -> MemoryApi:
    return MemoryApi()


@pytest.fixture
def replica(api: MemoryApi, tmp_path: Path) -> Replica:
    return Replica(api, tmp_path / "a", FIRST)


def writes(api: MemoryApi) -> list[str]:
    return [verb for verb, _, _ in api.calls if verb != "get"]


def test_without_the_apiservice_it_is_said_how_to_get_one(replica):
    assert "externalMetrics.enabled=true" in replica.look()


def test_somebody_elses_apiservice_is_named_and_left_alone(api, replica):
    api.post(api_service("keda", name="keda-metrics-apiserver"))
    assert "leads to keda/keda-metrics-apiserver" in replica.look()
    assert writes(api) == []


def test_ours_gets_our_certificate_once_and_nothing_else_is_changed(api, replica):
    before = api.post(api_service(SYSTEM))
    assert [replica.look(), replica.look()] == ["", ""]
    assert believed(api) == [FIRST]
    assert writes(api) == ["patch"]
    after = api.find(API_SERVICE, NAME, "")
    assert after["spec"].pop("caBundle")
    assert after["spec"] == before["spec"]


def test_an_authority_beside_the_certificate_is_believed_in_its_stead(api, replica):
    api.post(api_service(SYSTEM))
    (replica.folder / "ca.crt").write_text(SECOND)
    replica.look()
    assert believed(api) == [SECOND]


def test_a_bundle_that_others_see_to_is_left_alone(api, replica):
    api.post(api_service(SYSTEM, is_ours=False))
    assert replica.look() == ""
    assert writes(api) == []


def test_while_a_new_certificate_reaches_the_replicas_both_are_believed_and_then_the_new_one(api, replica, tmp_path):
    api.post(api_service(SYSTEM))
    other = Replica(api, tmp_path / "b", FIRST)
    replica.look(), other.look()
    replica.show(SECOND)
    replica.look(), other.look(), replica.look()
    assert believed(api) == [SECOND, FIRST]
    other.show(SECOND)
    other.look()
    replica.now = other.now = OVERLAP_SECONDS
    replica.look(), other.look()
    assert believed(api) == [SECOND]
    assert writes(api) == ["patch"] * 3


def test_a_write_of_another_replica_in_between_is_not_undone(api, replica, tmp_path):
    api.post(api_service(SYSTEM))
    stale = api.get(API_SERVICE, "", NAME)
    Replica(api, tmp_path / "b", SECOND).look()
    api.get = lambda *words: stale
    with pytest.raises(ApiError) as refused:
        replica.look()
    assert refused.value.is_passing
    assert believed(api) == [SECOND]


def test_what_the_api_server_says_of_a_back_end_that_it_does_not_reach_is_passed_on(api, replica):
    api.post(api_service(SYSTEM))
    told = {"type": "Available", "status": "False", "message": "failing or missing response"}
    api.update(API_SERVICE, "", NAME, {"status": {"conditions": [told]}})
    assert "gets no answer" in replica.look()
    assert "failing or missing response" in replica.look()


def test_a_bundle_of_any_system_is_read():
    crowded = "comment\r\n" + FIRST.replace("\n", "\r\n") + SECOND
    assert [one.decode() + "\n" for one in certificates(crowded.encode())] == [FIRST, SECOND]

from __future__ import annotations

import pytest

from penstock_operator.cluster.leader import LEASE_SECONDS, RENEW_SECONDS, Leader
from penstock_operator.errors import ApiError
from penstock_operator.kinds import LEASE
from support.clock import Clock
from support.memory_api import MemoryApi


@pytest.fixture
def api():
    return MemoryApi()


@pytest.fixture
def clock():
    return Clock(1000.0)


def leader(api, clock, name: str, led: list[str] | None = None) -> Leader:
    on_lead = (lambda: None) if led is None else (lambda: led.append(name))
    return Leader(api, "penstock-system", "penstock-operator", identity=name, clock=clock, on_lead=on_lead)


def holder(api) -> str:
    return api.find(LEASE, "penstock-operator", "penstock-system")["spec"]["holderIdentity"]


def test_the_first_one_leads_and_the_second_waits(api, clock):
    led: list[str] = []
    one, two = leader(api, clock, "one", led), leader(api, clock, "two", led)
    for _ in range(10):
        one.turn()
        two.turn()
        clock.now += RENEW_SECONDS
    assert (one.is_leading, two.is_leading, led) == (True, False, ["one"])


def test_a_leader_that_stops_renewing_stops_leading_before_the_next_one_begins(api, clock):
    one, two = leader(api, clock, "one"), leader(api, clock, "two")
    one.turn()
    two.turn()
    for _ in range(LEASE_SECONDS * 10 + 20):
        two.turn()
        assert not (one.is_leading and two.is_leading)
        clock.now += 0.1
    assert (one.is_leading, two.is_leading, holder(api)) == (False, True, "two")
    one.turn()
    assert not one.is_leading


def test_an_api_server_that_is_away_ends_the_writes_and_its_return_begins_them_anew(api, clock):
    led: list[str] = []
    one = leader(api, clock, "one", led)
    one.turn()
    api.is_away = True
    while one.is_leading:
        one.turn()
        clock.now += RENEW_SECONDS
    one.turn()
    api.is_away = False
    one.turn()
    assert one.is_leading
    assert led == ["one", "one"], "whoever leads again looks at everything again"


def test_a_renewal_that_took_too_long_counts_as_lost_and_taken_again(api, clock):
    led: list[str] = []
    one = leader(api, clock, "one", led)
    one.turn()
    replace = api.replace

    def slow(manifest):
        clock.now += LEASE_SECONDS
        assert not one.is_leading
        return replace(manifest)

    api.replace = slow
    one.turn()
    api.replace = replace
    one.turn()
    assert one.is_leading
    assert led == ["one", "one"], "what was dropped meanwhile has to be looked at"


def test_a_lease_that_was_given_up_is_taken_at_once(api, clock):
    one, two = leader(api, clock, "one"), leader(api, clock, "two")
    one.turn()
    two.turn()
    one.release()
    assert not one.is_leading
    two.turn()
    assert two.is_leading
    one.release()
    assert holder(api) == "two", "only the holder gives a Lease up"


def test_the_wall_clock_of_the_holder_proves_nothing(api, clock):
    one, two = leader(api, clock, "one"), leader(api, clock, "two")
    one.turn()
    lease = api.find(LEASE, "penstock-operator", "penstock-system")
    api.replace({**lease, "spec": {**lease["spec"], "renewTime": "1999-01-01T00:00:00.000000Z"}})
    two.turn()
    assert not two.is_leading


def test_of_two_that_take_an_expired_lease_at_once_one_gets_it(api, clock):
    one, two, dead = leader(api, clock, "one"), leader(api, clock, "two"), leader(api, clock, "dead")
    dead.turn()
    one.turn()
    two.turn()
    clock.now += LEASE_SECONDS + 1
    replace = api.replace

    def both(manifest):
        api.replace = replace
        two.turn()
        return replace(manifest)

    api.replace = both
    one.turn()
    assert (one.is_leading, two.is_leading, holder(api)) == (False, True, "two")


def test_a_refusal_is_no_reason_to_lead(api, clock):
    api.refuse = lambda verb, kind, name: ApiError(403, "leases is forbidden") if verb == "update" else None
    one = leader(api, clock, "one")
    api.post({**one._lease({}, {}), "spec": {"holderIdentity": ""}})
    one.turn()
    assert not one.is_leading

"""Affinity with bounded load, as pure functions."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from penstock.router.choose import Affinity, Candidate, choose, prefix_keys, usable_again

SLACK = 0.25


def pod(address: str, load: int = 0, **values) -> Candidate:
    return Candidate(
        **{"address": address, "num_own": load, "num_polled_own": load, "running": load, "waiting": 0}
        | {"max_num_seqs": 1000}
        | values
    )


def test_prompts_with_the_same_beginning_share_their_shorter_keys():
    one, two = prefix_keys(None, b"a" * 3000 + b"x"), prefix_keys(None, b"a" * 3000 + b"y" * 9000)
    assert set(one) & set(two) == set(one[1:])
    assert len(two) == 7
    assert not set(one) & set(prefix_keys("another tenant", b"a" * 3000 + b"x"))


def test_a_prompt_goes_where_its_longest_known_beginning_went():
    affinity = Affinity()
    affinity.remember(prefix_keys(None, b"a" * 300), "one")
    affinity.remember(prefix_keys(None, b"a" * 600), "two")
    pods = [pod("one"), pod("two"), pod("three")]
    assert choose(pods, prefix_keys(None, b"a" * 600 + b"b" * 600), affinity, slack=SLACK).address == "two"


def test_affinity_ends_where_a_pod_is_busier_than_the_others():
    affinity, keys = Affinity(), prefix_keys(None, b"hello")
    affinity.remember(keys, "one")
    assert choose([pod("one", 10), pod("two", 10)], keys, affinity, slack=SLACK).address == "one"
    assert choose([pod("one", 15), pod("two", 7)], keys, affinity, slack=SLACK).address == "two"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.binary(min_size=1, max_size=40), st.booleans())
def test_no_pod_gets_more_than_its_bound(loads, text, is_known):
    affinity, keys = Affinity(), prefix_keys(None, text)
    pods = [pod(f"pod-{number}", load) for number, load in enumerate(loads)]
    if is_known:
        affinity.remember(keys, "pod-0")
    chosen = choose(pods, keys, affinity, slack=SLACK)
    mean = (sum(loads) + 1) / len(loads)
    assert chosen.load + 1 <= max(1.0, (1 + SLACK) * mean) + 1
    assert chosen.load == min(loads) or chosen.load < (1 + SLACK) * mean


def test_unknown_prompts_spread_and_stay_when_a_pod_goes():
    rng, affinity = random.Random(1), Affinity()
    pods = [pod(f"pod-{number}") for number in range(4)]
    prompts = [prefix_keys(None, rng.randbytes(20)) for _ in range(2000)]
    before = [choose(pods, keys, affinity, slack=SLACK).address for keys in prompts]
    assert min(Counter(before).values()) > 400
    after = [choose(pods[:3], keys, affinity, slack=SLACK).address for keys in prompts]
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "pod-3")


def test_affinity_forgets_what_was_not_used_for_longest():
    affinity = Affinity(max_remembered=3)
    affinity.remember([b"a", b"b", b"c"], "one")
    affinity.remember([b"a"], "one")
    affinity.remember([b"d"], "one")
    assert len(affinity) == 3
    assert affinity.find([b"b"], {"one"}) is None
    assert affinity.find([b"a"], {"one"}) == "one"


def test_requests_of_other_routers_count_as_load():
    assert pod("one", num_own=3, num_polled_own=2, running=7, waiting=1).load == 3 + 6


def test_a_pod_has_room_until_its_rows_and_a_short_queue_are_full():
    assert pod("one", 0, max_num_seqs=8, num_own=11).has_room
    assert not pod("one", 0, max_num_seqs=8, num_own=12).has_room
    assert not pod("one", 0, max_num_seqs=8, is_full=True).has_room


def test_a_pod_whose_cache_is_full_gets_one_request_for_each_that_it_ends():
    polled = {"num_polled_own": 70, "running": 6, "waiting": 64, "max_num_seqs": 256}
    assert not pod("one", num_own=70, **polled).has_room
    assert pod("one", num_own=69, **polled).has_room


def test_a_lost_request_goes_to_others_first_and_stays_with_its_revision():
    pods = [pod("old-1", revision="1", polled_at=5), pod("old-2", revision="1", polled_at=5), pod("new", revision="2")]
    assert [one.address for one in usable_again(pods, {"old-1": 4.0}, "1")] == ["old-2"]
    assert [one.address for one in usable_again(pods[::2], {"old-1": 4.0}, "1")] == ["new"]


def test_a_pod_that_lost_a_request_counts_again_only_when_it_has_answered_since():
    assert usable_again([pod("one", polled_at=4)], {"one": 4.5}, "1") == []
    assert [one.address for one in usable_again([pod("one", polled_at=5)], {"one": 4.5}, "1")] == ["one"]

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.kv_transfer.decider import FIRST_PAUSE, LONGEST_PAUSE, Candidate, Decider, Need

MB = 1_000_000


def build_decider(min_tokens=256, slack=1.5) -> Decider:
    return Decider(min_tokens, slack)


def need(num_tokens=1000, num_queued=0, rate=1000.0, num_running=0) -> Need:
    return Need(
        num_tokens=num_tokens,
        num_bytes=num_tokens * 50_000,
        num_queued=num_queued,
        num_running=num_running,
        rate=rate,
    )


def candidate(peer=1, queued=0, pending=0, rate=1000.0, link=2000.0 * MB) -> Candidate:
    return Candidate(peer=peer, num_queued=queued, num_pending=pending, rate=rate, bytes_per_second=link)


def test_a_long_prompt_goes_to_an_idle_peer_of_an_idle_pod():
    choice = build_decider().choose(need(), [candidate()], 0.0)
    assert (choice.peer, choice.why, choice.seconds) == (1, "remote", 1.0)


def test_the_first_long_prompt_goes_to_a_peer_although_nothing_is_measured_yet():
    choice = build_decider().choose(need(rate=0.0), [candidate(rate=0.0, link=0.0)], 0.0)
    assert (choice.peer, choice.seconds) == (1, 0.0), "there is nothing to learn from how wrong a guess was"


def test_a_short_prompt_stays():
    assert build_decider().choose(need(255), [candidate()], 0.0).why == "short"
    assert build_decider().choose(need(256), [candidate()], 0.0).why == "remote"


def test_without_peers_everything_stays():
    assert build_decider().choose(need(), [], 0.0).why == "alone"


def test_a_longer_queue_there_than_here_keeps_the_prompt_here():
    decider = build_decider()
    assert decider.choose(need(8000), [candidate(queued=2000)], 0.0).why == "queue"
    assert decider.choose(need(8000, num_queued=2000), [candidate(queued=2000)], 0.0).why == "remote"


def test_running_streams_that_would_wait_are_worth_a_queue_or_a_slower_peer():
    decider = build_decider()
    assert decider.choose(need(1000, num_running=1), [candidate(queued=1200)], 0.0).why == "remote"
    assert decider.choose(need(1000, num_running=1), [candidate(queued=1300)], 0.0).why == "queue"
    assert decider.choose(need(1000, num_running=100), [candidate(queued=4200)], 0.0).why == "remote"
    assert decider.choose(need(1000, num_running=100), [candidate(queued=4300)], 0.0).why == "queue"
    assert decider.choose(need(1000, num_running=1), [candidate(rate=400.0)], 0.0).why == "remote"
    assert decider.choose(need(1000, num_running=1), [candidate(rate=300.0)], 0.0).why == "cost"


def test_what_we_have_sent_there_counts_before_its_load_shows_it():
    assert build_decider().choose(need(), [candidate(pending=3000)], 0.0).why == "queue"


def test_a_slow_link_keeps_the_prompt_here():
    assert build_decider().choose(need(), [candidate(link=20.0 * MB)], 0.0).why == "cost"


def test_a_slow_peer_keeps_the_prompt_here_unless_smooth_decoding_is_worth_it():
    assert build_decider().choose(need(), [candidate(rate=500.0)], 0.0).why == "cost"
    assert build_decider(slack=3.0).choose(need(), [candidate(rate=500.0)], 0.0).why == "remote"


def test_the_cheapest_of_several_peers_is_asked():
    peers = [candidate(1, queued=100), candidate(2, rate=2000.0), candidate(3)]
    assert build_decider().choose(need(), peers, 0.0).peer == 2


def test_a_peer_that_fails_is_left_alone_for_longer_and_longer_and_forgiven_by_success():
    decider, now, pauses = build_decider(), 0.0, []
    for _ in range(9):
        decider.failed(1, now)
        decider.failed(1, now)  # of the same moment: once
        assert decider.choose(need(), [candidate()], now).why == "paused"
        assert decider.choose(need(), [candidate(), candidate(2)], now).peer == 2
        began = now
        while decider.choose(need(), [candidate()], now).why == "paused":
            now += 0.5
        pauses.append(now - began)
    assert pauses == [min(LONGEST_PAUSE, FIRST_PAUSE * 2**n) for n in range(9)]
    decider.succeeded(1, 1.0, 1.0, now)
    decider.failed(1, now)
    assert decider.choose(need(), [candidate()], now + FIRST_PAUSE).why == "remote"


def test_a_success_that_nobody_predicted_forgives_too_and_teaches_nothing():
    decider = build_decider()
    for _ in range(3):
        decider.failed(1, 0.0)
        decider.succeeded(1, 0.0, 100.0, 0.0)
    assert decider.choose(need(), [candidate()], FIRST_PAUSE).why == "remote"


def test_a_peer_that_is_slower_than_predicted_is_believed_less_and_that_is_forgotten():
    decider = build_decider()
    for _ in range(4):
        decider.succeeded(1, 1.0, 2.5, 0.0)
    assert decider.choose(need(), [candidate()], 0.0).why == "cost"
    assert decider.choose(need(), [candidate()], 300.0).why == "remote"


def test_a_peer_that_is_far_slower_than_predicted_is_left_alone():
    decider = build_decider()
    decider.succeeded(1, 0.5, 4.0, 0.0)
    assert decider.choose(need(), [candidate()], 0.5).why == "paused"


NUMBERS = st.integers(0, 100_000)
RATES = st.sampled_from([0.0, 10.0, 1000.0, 1e6])


@given(st.builds(need, st.integers(1, 100_000), NUMBERS, RATES), NUMBERS, RATES, RATES)
def test_an_idle_peer_that_is_as_fast_as_we_are_is_always_worth_it(here, queued, rate, link):
    decider = build_decider(min_tokens=1)
    choice = decider.choose(here, [candidate(rate=here.rate, link=0.0)], 0.0)
    assert choice.why == "remote"
    other = decider.choose(here, [candidate(queued=queued, rate=rate, link=link)], 0.0)
    assert other.why in {"remote", "queue", "cost"}
    assert (other.peer is None) == (other.why != "remote")


def test_a_peer_that_seemed_slow_is_asked_again_after_a_while():
    decider = build_decider()
    for slow in (candidate(rate=20.0), candidate(link=5.0 * MB)):
        assert decider.choose(need(), [slow], 100.0).why == "cost"
    for slow in (candidate(rate=20.0), candidate(link=5.0 * MB)):
        now = next(at for at in range(101, 400) if decider.choose(need(), [slow], float(at)).why == "remote")
        assert decider.choose(need(), [slow], now + 1.0).why == "cost", "and believed, if it still is"
        decider = build_decider()
        decider.choose(need(), [slow], 100.0)

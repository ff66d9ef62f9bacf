from __future__ import annotations

import numpy as np

from penstock.core.chunk_size import MIN_CHUNK, ChunkSize
from penstock.core.policy import choose_victim, share_budget


def ints(*values):
    return np.array(values, dtype=np.int32)


def test_the_victim_is_cheap_and_never_the_oldest():
    assert choose_victim(ints(0, 0, 0), np.array([1, 2, 3]), ints(5, 90, 40)) == 2
    assert choose_victim(ints(0, 0, 0), np.array([1, 2, 3]), ints(5, 40, 40)) == 2


def test_the_least_urgent_class_loses_rows_first_even_its_oldest_if_alone():
    assert choose_victim(ints(0, 5, 0), np.array([1, 2, 3]), ints(0, 1000, 0)) == 1


def test_a_single_row_is_never_preempted():
    assert choose_victim(ints(3), np.array([1]), ints(10)) is None


def test_decoding_rows_are_served_before_chunks_and_chunks_in_order():
    grant = share_budget(ints(1, 300, 1, 300), 512, 400, has_waiting=False)
    assert grant.tolist() == [1, 200, 1, 200]
    assert share_budget(ints(1, 300, 1), 512, 400, has_waiting=False).tolist() == [1, 300, 1]


def test_a_long_prompt_leaves_half_of_the_chunk_budget_to_those_who_wait():
    assert share_budget(ints(5000), 512, 512, has_waiting=True).tolist() == [256]
    assert share_budget(ints(5000), 512, 512, has_waiting=False).tolist() == [512]


def test_more_decoding_rows_than_budget_get_a_token_each_as_far_as_it_goes():
    assert share_budget(np.ones(5, dtype=np.int32), 3, 3, has_waiting=False).tolist() == [1, 1, 1, 0, 0]


def test_chunks_shrink_to_the_target_itl_while_others_decode():
    size = ChunkSize(target_itl=0.1, max_tokens=2048)
    for _ in range(20):
        size.observe(0, 8, 0.02)
        size.observe(200, 8, 0.02 + 200 * 0.001)
    assert 70 <= size.limit(has_decodes=True) <= 90  # (100 ms - 20 ms) / 1 ms per token
    assert size.limit(has_decodes=False) == 2048


def test_a_chunk_never_shrinks_to_nothing():
    size = ChunkSize(target_itl=0.01, max_tokens=2048)
    for _ in range(20):
        size.observe(0, 8, 0.5)
        size.observe(100, 8, 1.0)
    assert size.limit(has_decodes=True) == MIN_CHUNK

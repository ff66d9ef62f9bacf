"""Penalties, logit bias and early stops, against a loop over tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.sampling.logits_processors import add_logit_bias, mask_early_stops
from penstock.sampling.params import SamplingParams
from penstock.sampling.penalties import penalise
from penstock.sampling.sampler import sample
from penstock.worker.cpu.state_table import StateTable
from support.rows import admit, new_row, table_of

VOCAB = 30
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=20)
penalty = st.sampled_from([0.0, 0.5, -1.0, 2.0])


def penalised_plainly(
    logits: np.ndarray, sampling: SamplingParams, prompt: list[int], outputs: list[int]
) -> np.ndarray:
    result = logits.astype(np.float64)
    for token in set(prompt + outputs):
        value, factor = result[token], sampling.repetition_penalty
        result[token] = value / factor if value > 0 else value * factor
    for token in set(outputs):
        result[token] -= sampling.frequency_penalty * outputs.count(token) + sampling.presence_penalty
    return result


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(tokens, tokens, penalty, penalty, st.sampled_from([1.0, 0.7, 1.8])), min_size=1, max_size=5),
    st.integers(0, 1000),
)
def test_penalties_follow_their_definitions(cases: list[tuple[list[int], list[int], float, float, float]], seed: int):
    table = StateTable(8, 64, 16)
    params = [
        SamplingParams(presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition)
        for *_, presence, frequency, repetition in cases
    ]
    admit(table, *(new_row(row, params[row], [0, *case[0]], case[1]) for row, case in enumerate(cases)))
    logits = np.random.default_rng(seed).standard_normal((len(cases), VOCAB)).astype(np.float32)
    found = logits.copy()
    penalise(found, table, np.arange(len(cases), dtype=np.int32))
    for row, case in enumerate(cases):
        expected = penalised_plainly(logits[row], params[row], [0, *case[0]], case[1])
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-5)


def test_rows_without_adjustments_keep_every_bit():
    table = table_of(SamplingParams(), SamplingParams(frequency_penalty=1.0, logit_bias={1: 5.0}), SamplingParams())
    logits = np.random.default_rng(0).standard_normal((3, VOCAB)).astype(np.float32)
    found, rows = logits.copy(), np.arange(3, dtype=np.int32)
    add_logit_bias(found, table, rows)
    mask_early_stops(found, table, rows)
    penalise(found, table, rows)
    assert np.array_equal(found[[0, 2]], logits[[0, 2]])
    assert found[1, 1] == logits[1, 1] + np.float32(5.0)


def test_stop_tokens_are_impossible_until_min_tokens_are_there():
    table = StateTable(2, 64, 16)
    admit(table, new_row(1, SamplingParams(temperature=0.0, min_tokens=2), [5, 6], stop_ids=(3, 4)))
    row = np.array([1], dtype=np.int32)
    found = []
    for _ in range(4):
        logits = torch.zeros(1, VOCAB)
        logits[0, [3, 4, 9]] = torch.tensor([9.0, 8.0, 1.0])
        found.append(int(sample(table, logits, row, 0).token_ids[0]))
        table.append(row, np.array(found[-1:], dtype=np.int32))
    assert found == [9, 9, 3, 3]


def test_a_biased_token_wins_or_never_appears():
    table = table_of(
        SamplingParams(temperature=0.0, logit_bias={7: 100.0}), SamplingParams(seed=1, logit_bias={2: -100.0})
    )
    logits = torch.zeros(2, VOCAB)
    logits[1, 2] = 50.0
    assert sample(table, logits.clone(), np.arange(2, dtype=np.int32), 0).token_ids[0] == 7
    drawn = set()
    for _ in range(50):
        token = sample(table, logits.clone(), np.arange(2, dtype=np.int32), 0).token_ids[1]
        table.append(np.array([1], dtype=np.int32), np.array([token], dtype=np.int32))
        drawn.add(int(token))
    assert 2 not in drawn
    assert len(drawn) > 10

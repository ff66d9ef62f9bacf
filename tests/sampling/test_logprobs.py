"""Log-probabilities, their ranks and alternatives."""

from __future__ import annotations

import numpy as np
import torch

from penstock.sampling.logprobs import logprobs_of
from penstock.sampling.params import SamplingParams
from penstock.sampling.sampler import sample
from support.rows import table_of


def test_values_ranks_and_alternatives_equal_log_softmax():
    logits = torch.randn(20, 5000, generator=torch.Generator().manual_seed(0)) * 5
    token_ids = np.arange(20) * 7
    found = logprobs_of(logits.numpy(), token_ids, 8)
    exact = torch.log_softmax(logits.double(), dim=-1).numpy()
    chosen = exact[np.arange(20), token_ids]
    np.testing.assert_allclose(found.token, chosen, atol=2e-6)
    assert found.rank.tolist() == [int((exact[i] > chosen[i]).sum()) + 1 for i in range(20)]
    order = np.argsort(-exact, axis=1, kind="stable")[:, :8]
    assert np.array_equal(found.top_ids, order)
    np.testing.assert_allclose(found.top, np.take_along_axis(exact, order, axis=1), atol=2e-6)


def test_equal_logits_are_listed_in_order_of_id():
    logits = np.zeros((1, 50), dtype=np.float32)
    logits[0, [30, 20, 10]] = 1.0
    found = logprobs_of(logits, np.array([20]), 3)
    assert found.top_ids.tolist() == [[10, 20, 30]]
    assert found.rank.tolist() == [1]


def test_no_alternatives_are_an_empty_column():
    found = logprobs_of(np.zeros((2, 4), dtype=np.float32), np.array([0, 3]), 0)
    assert found.top.shape == found.top_ids.shape == (2, 0)
    np.testing.assert_allclose(found.token, np.log(0.25), rtol=1e-6)


def test_only_rows_that_ask_get_them_and_adjustments_leave_them_alone():
    table = table_of(
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.3, seed=1, logprobs=3, top_k=2, logit_bias={5: 40.0}, repetition_penalty=2.0),
        SamplingParams(temperature=0.0, logprobs=0),
    )
    logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(2))
    exact = torch.log_softmax(logits.double(), dim=-1).numpy()
    sampled = sample(table, logits.clone(), np.arange(3, dtype=np.int32), 3)
    assert sampled.logprob_index.tolist() == [1, 2]
    assert sampled.logprobs is not None
    assert sampled.token_ids[1] == 5
    np.testing.assert_allclose(sampled.logprobs.token, [exact[1, 5], exact[2].max()], atol=2e-6)
    assert sampled.logprobs.rank.tolist() == [int((exact[1] > exact[1, 5]).sum()) + 1, 1]
    assert sampled.logprobs.top_ids[0].tolist() == np.argsort(-exact[1])[:3].tolist()

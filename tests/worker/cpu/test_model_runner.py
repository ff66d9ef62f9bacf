"""The runner on a tiny model: the reference's tokens however the work is cut into steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.core.plan import PromptLogprobs
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.model_runner import ModelRunner
from penstock.worker.cpu.worker import CpuWorker
from penstock.worker.executor import InlineExecutor
from support.reference import reference_greedy, reference_logits
from support.runs import GREEDY, Run
from support.tiny_worker import NUM_BLOCKS, TinyWorker

PROMPTS = {row: np.random.default_rng(row).integers(3, 300, 5 + 13 * row).tolist() for row in range(6)}
SAMPLED = SamplingParams(
    temperature=1.0, seed=4, top_p=0.95, frequency_penalty=0.4, repetition_penalty=1.1, logit_bias={50: 2.0}
)


@pytest.fixture(scope="module")
def greedy(tiny: TinyWorker) -> dict[int, list[int]]:
    """What `transformers` says."""
    return {row: reference_greedy(tiny.reference, prompt, 20) for row, prompt in PROMPTS.items()}


def start(inline: InlineExecutor, depth: int = 1) -> Run:
    return Run(inline, NUM_BLOCKS, depth=depth)


def runner_of(inline: InlineExecutor) -> ModelRunner:
    """The runner inside, to damage its state."""
    assert isinstance(inline._worker, CpuWorker)
    assert inline._worker._runner is not None
    return inline._worker._runner


@pytest.mark.parametrize("chunk", [1, 7, 16, 1000])
def test_greedy_tokens_equal_the_reference_for_any_chunk_size(
    inline: InlineExecutor, greedy: dict[int, list[int]], chunk: int
):
    run = start(inline)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt)
    run.generate(20, list(PROMPTS), chunk)
    assert run.outputs == greedy


def test_rows_that_come_go_and_run_in_any_order_do_not_disturb_each_other(
    inline: InlineExecutor, greedy: dict[int, list[int]]
):
    run, dice = start(inline), np.random.default_rng(0)
    waiting, running, owner = list(PROMPTS) * 2, [], {}
    collected: list[tuple[int, list[int]]] = []
    while waiting or running:
        if waiting and len(running) < 5 and dice.random() < 0.5:
            row = next(row for row in dice.permutation(8).tolist() if row not in running)
            owner[row] = waiting.pop()
            run.add(row, PROMPTS[owner[row]])
            running.append(row)
        chosen = [row for row in running if dice.random() < 0.7]
        if chosen:
            run.step({row: int(dice.integers(1, run.num_planned[row] - run.num_computed[row] + 1)) for row in chosen})
        for row in [row for row in running if len(run.outputs[row]) >= 20]:
            collected.append((owner[row], run.outputs[row][:20]))
            running.remove(row)
            run.free(row)
    assert sorted(collected) == sorted((row, greedy[row]) for row in list(PROMPTS) * 2)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_plans_made_before_the_results_are_known_give_the_same_tokens(
    inline: InlineExecutor, greedy: dict[int, list[int]], depth: int
):
    run = start(inline, depth)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt, SAMPLED if row % 2 else GREEDY)
    run.generate(20, list(PROMPTS), chunk=11)
    assert {row: run.outputs[row] for row in (0, 2, 4)} == {row: greedy[row] for row in (0, 2, 4)}
    alone = start(inline)
    for row in (1, 3, 5):
        alone.add(row, PROMPTS[row], SAMPLED)
        alone.generate(20, [row])
        assert alone.outputs[row] == run.outputs[row]


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_request_told_again_in_another_row_goes_on_as_it_would_have(inline: InlineExecutor, sampling: SamplingParams):
    whole = start(inline)
    whole.add(2, PROMPTS[3], sampling)
    whole.generate(20, [2])
    again = start(inline)
    again.add(7, PROMPTS[3], sampling, outputs=whole.outputs[2][:9])
    again.generate(11, [7], chunk=10)
    assert again.outputs[7] == whole.outputs[2]


def test_what_unused_memory_holds_reaches_no_result(inline: InlineExecutor, greedy: dict[int, list[int]]):
    runner_of(inline)._kv_cache.fill_(torch.nan)
    run = start(inline)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt)
    run.generate(20, list(PROMPTS), chunk=9)
    assert run.outputs == greedy


def test_a_row_with_bad_numbers_fails_alone(inline: InlineExecutor, greedy: dict[int, list[int]]):
    run = start(inline)
    for row in (0, 1, 2):
        run.add(row, PROMPTS[row])
    run.generate(3, [0, 1, 2])
    runner_of(inline)._kv_cache[run.blocks[1]] = torch.nan
    run.generate(5, [0, 1, 2])
    assert [result.failed_rows.tolist() for result in run.results] == [[]] * 3 + [[1]] * 5
    assert run.outputs[1][3:] == [0] * 5
    for row in (0, 2):
        assert run.outputs[row] == greedy[row][:8]


def test_logprobs_are_the_models_own_whatever_the_sampling(inline: InlineExecutor, tiny: TinyWorker):
    run = start(inline)
    run.add(0, PROMPTS[0])
    run.add(3, PROMPTS[3], SamplingParams(temperature=0.5, seed=1, top_k=3, logprobs=4, logit_bias={9: 30.0}))
    run.add(5, PROMPTS[5], SamplingParams(temperature=0.0, logprobs=0))
    run.generate(6, [0, 3, 5])
    for row, logprobs in ((3, 4), (5, 0)):
        known = PROMPTS[row] + run.outputs[row]
        exact = torch.log_softmax(reference_logits(tiny.reference, known), dim=-1)[len(PROMPTS[row]) - 1 : -1]
        for step, result in enumerate(run.results):
            assert result.logprobs is not None
            entry = result.logprobs.index.tolist().index(result.rows.tolist().index(row))
            token = run.outputs[row][step]
            assert abs(result.logprobs.sampled[entry] - exact[step, token]) < 1e-4
            assert result.logprobs.rank[entry] == (exact[step] > exact[step, token]).sum() + 1
            assert result.logprobs.top_ids[entry, :logprobs].tolist() == exact[step].topk(logprobs).indices.tolist()


@pytest.mark.parametrize(("chunk", "logits_at_once"), [(1000, 1 << 22), (9, 1 << 22), (1000, 7 * 320)])
def test_prompt_logprobs_cover_every_prompt_token_once(
    inline: InlineExecutor, tiny: TinyWorker, chunk: int, logits_at_once: int
):
    runner_of(inline)._rows_at_once = logits_at_once // 320
    run = start(inline)
    run.add(1, PROMPTS[2])
    run.add(4, PROMPTS[4], SamplingParams(temperature=0.0, prompt_logprobs=3))
    run.generate(4, [1, 4], chunk)
    parts: list[PromptLogprobs] = [part for result in run.results for part in result.prompt_logprobs]
    assert {part.row for part in parts} == {4}
    positions = [part.start + i for part in parts for i in range(len(part.token))]
    assert positions == list(range(1, len(PROMPTS[4])))
    exact = torch.log_softmax(reference_logits(tiny.reference, PROMPTS[4]), dim=-1)[:-1]
    found = np.concatenate([part.token for part in parts])
    chosen = exact[range(len(found)), PROMPTS[4][1:]]
    np.testing.assert_allclose(found, chosen, atol=1e-4)
    assert np.concatenate([part.rank for part in parts]).tolist() == ((exact > chosen[:, None]).sum(dim=1) + 1).tolist()
    assert np.concatenate([part.top_ids for part in parts]).tolist() == exact.topk(3).indices.tolist()


def test_a_large_batch_is_sampled_in_slices_without_a_seam(inline: InlineExecutor, greedy: dict[int, list[int]]):
    runner_of(inline)._rows_at_once = 2
    run = start(inline)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt, SamplingParams(temperature=0.0, logprobs=1) if row in (1, 4, 5) else GREEDY)
    run.generate(20, list(PROMPTS))
    assert run.outputs == greedy
    for result in run.results:
        assert result.logprobs is not None
        assert result.rows[result.logprobs.index].tolist() == [1, 4, 5]
        assert result.logprobs.top_ids[:, 0].tolist() == result.token_ids[result.logprobs.index].tolist()


def test_a_plan_without_rows_only_changes_the_table(inline: InlineExecutor):
    run = start(inline)
    run.add(0, PROMPTS[0])
    run.generate(1, [0])
    run.free(0)
    run.step({})
    assert run.results[-1].rows.tolist() == []
    assert run.results[-1].elapsed >= 0

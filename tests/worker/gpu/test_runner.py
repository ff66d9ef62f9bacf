"""The runner on a device that works later: the same tokens however steps are cut, padded, captured and overlapped."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from penstock.sampling.params import SamplingParams
from support.runs import GREEDY, Run
from support.thread_stream import ThreadStream
from support.toy_runner import EAGER, GRAPHS, NUM_BLOCKS, Toy, toy_prompt

PROMPTS = {row: toy_prompt(row, 3 + 5 * row) for row in range(5)}
SAMPLED = SamplingParams(temperature=1.0, seed=4, min_p=0.01, frequency_penalty=0.4, logit_bias={50: 2.0})
COUNT = 7


def expected(toy: Toy, count: int = COUNT) -> dict[int, list[int]]:
    """What the model says without a cache, alone."""
    return {row: toy.model.greedy(prompt, count) for row, prompt in PROMPTS.items()}


def generate(run: Run, chunk: int = 1000, sampling: SamplingParams = GREEDY) -> dict[int, list[int]]:
    for row, prompt in PROMPTS.items():
        run.add(row, prompt, sampling)
    run.generate(COUNT, list(PROMPTS), chunk)
    return run.outputs


@pytest.mark.parametrize(
    ("sizes", "depth", "chunk"),
    [(EAGER, 1, 50), (EAGER, 2, 4), (GRAPHS, 1, 7), (GRAPHS, 2, 50), (GRAPHS, 3, 3)],
    ids=lambda value: str(value) if isinstance(value, int) else ("graphs" if value.decode else "eager"),
)
def test_tokens_are_the_models_with_and_without_graphs_and_overlap(new_stream, sizes, depth, chunk):
    toy = Toy.start(new_stream(seed=depth), sizes)
    assert generate(toy.run(depth), chunk) == expected(toy)


def test_rows_that_come_go_and_return_do_not_disturb_each_other(new_stream):
    toy, dice = Toy.start(new_stream(seed=1), GRAPHS), np.random.default_rng(2)
    run, right = toy.run(depth=2), expected(toy)
    waiting, owner, collected = [*PROMPTS, *PROMPTS], {}, []
    while waiting or owner:
        if waiting and len(owner) < 4 and dice.random() < 0.6:
            row = next(row for row in dice.permutation(6).tolist() if row not in owner)
            owner[row] = waiting.pop()
            known = right[owner[row]][: int(dice.integers(0, 4))]  # it was preempted after so many
            run.add(row, PROMPTS[owner[row]], outputs=known)
        chosen = [row for row in owner if dice.random() < 0.8]
        if chosen:
            room = 30 // len(chosen)
            run.step(
                {
                    row: int(dice.integers(1, min(room, run.num_planned[row] - run.num_computed[row]) + 1))
                    for row in chosen
                }
            )
        for row in [row for row in owner if len(run.outputs[row]) >= COUNT]:
            run.finish()  # rows and blocks return once no step in flight names them
            collected.append((owner.pop(row), run.outputs[row][:COUNT]))
            run.free(row)
    assert sorted(collected) == sorted((owner, right[owner]) for owner in [*PROMPTS, *PROMPTS])


def test_submit_returns_while_the_device_does_nothing(new_thread: Callable[..., ThreadStream]):
    stream = new_thread()
    toy = Toy.start(stream, GRAPHS)
    run = toy.run(depth=10)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt, SAMPLED if row % 2 else GREEDY)
    stream.finish()
    stream.pause()
    run.step({row: len(prompt) for row, prompt in list(PROMPTS.items())[:3]})
    for _ in range(3):
        run.step({0: 1, 1: 1, 2: 1})
    assert not any(handle.is_done() for handle in run._handles)
    stream.resume()
    stream.finish()  # all answers lie in host memory before the first one is read
    run.finish()
    right = expected(toy)
    assert {row: run.outputs[row] for row in (0, 2)} == {row: right[row][:4] for row in (0, 2)}


def test_a_steady_decode_step_replays_one_graph_and_sends_one_buffer(new_thread: Callable[..., ThreadStream]):
    stream = new_thread()
    toy = Toy.start(stream, GRAPHS)
    run = toy.run(depth=2)
    generate(run)
    replayed, buffers, asked = stream.num_replayed, stream.num_buffers, stream.num_enqueued
    run.generate(4, [0, 1, 2])
    assert stream.num_replayed - replayed == 4
    assert stream.num_buffers == buffers
    assert stream.num_enqueued - asked == 4 * 4  # state, graph, sampling, answer


def test_sampled_tokens_depend_on_seed_and_output_index_alone(new_stream):
    together = generate(Toy.start(new_stream(), GRAPHS).run(depth=2), sampling=SAMPLED)
    alone = Toy.start(new_stream()).run()
    for row in (1, 3):
        alone.add(5, PROMPTS[row], SAMPLED, outputs=together[row][:4])
        alone.generate(COUNT - 4, [5], chunk=4)
        assert alone.outputs[5] == together[row]
        alone.free(5)


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's numpy, where a GPU just computes NaN
def test_a_row_with_bad_numbers_fails_alone(new_stream):
    toy = Toy.start(new_stream(), GRAPHS)
    run, right = toy.run(depth=2), expected(toy)
    for row in (0, 1, 2):
        run.add(row, PROMPTS[row], SamplingParams(temperature=0.0, logprobs=2) if row == 1 else GREEDY)
    run.generate(2, [0, 1, 2])
    cache = toy.runner.graphs._forward._kv_cache
    cache[run.blocks[1]] = torch.nan
    run.generate(3, [0, 1, 2])
    assert [result.failed_rows.tolist() for result in run.results] == [[]] * 2 + [[1]] * 3
    assert run.outputs[1][2:] == [0] * 3
    assert {row: run.outputs[row] for row in (0, 2)} == {row: right[row][:5] for row in (0, 2)}
    for result in run.results[2:]:
        assert np.isfinite(result.logprobs.sampled).all()
        assert result.logprobs.top_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("sizes", [EAGER, GRAPHS], ids=["eager", "graphs"])
def test_nothing_is_written_into_the_blocks_of_others(new_stream, sizes):
    toy = Toy.start(new_stream(), sizes)
    run = toy.run(depth=2)
    assert generate(run, chunk=9) == expected(toy)
    held = {block for blocks in run.blocks.values() for block in blocks} | {0}
    others = [block for block in range(NUM_BLOCKS) if block not in held]
    cache = toy.runner.graphs._forward._kv_cache
    assert cache[others].isnan().all()
    for row, blocks in run.blocks.items():
        written = run.num_computed[row]
        assert cache[blocks].movedim(4, 1).flatten(0, 1)[written:].isnan().all()
        assert not cache[blocks].movedim(4, 1).flatten(0, 1)[:written].isnan().any()


def test_a_row_at_its_full_length_drops_its_last_token(new_stream):
    toy = Toy.start(new_stream())
    run, prompt = toy.run(), toy_prompt(9, 126)
    run.add(0, prompt[:62])
    run.add(1, [5, 6, 7])
    run.generate(1, [0, 1])
    run.free(0)
    run.add(0, prompt)
    run.step({0: 60, 1: 1})
    run.step({0: 60, 1: 1})
    run.step({0: 6, 1: 1})
    run.step({0: 1, 1: 1})
    run.step({0: 1, 1: 1})
    assert run.outputs[0] == toy.model.greedy(prompt, 3)
    assert run.outputs[1] == toy.model.greedy([5, 6, 7], 6)
    assert toy.table.rows["num_tokens"][0] == 128
    assert int(toy.table.field("num_tokens")[0]) == 128


def test_logits_in_slices_leave_no_seam(new_stream):
    toy = Toy.start(new_stream(), max_logits=2)
    run = toy.run(depth=2)
    for row, prompt in PROMPTS.items():
        run.add(row, prompt, SamplingParams(temperature=0.0, logprobs=1) if row in (1, 4) else GREEDY)
    run.generate(3, list(PROMPTS))
    assert run.outputs == expected(toy, 3)
    for result in run.results:
        assert result.rows[result.logprobs.index].tolist() == [1, 4]
        assert result.logprobs.top_ids[:, 0].tolist() == result.token_ids[result.logprobs.index].tolist()


def test_a_plan_without_rows_only_changes_the_table(new_stream):
    toy = Toy.start(new_stream())
    run = toy.run()
    run.add(0, PROMPTS[0])
    run.generate(1, [0])
    run.free(0)
    run.step({})
    assert run.results[-1].rows.tolist() == []
    assert run.results[-1].elapsed >= 0


@pytest.mark.parametrize("chunk", [1000, 5])
def test_logprobs_are_the_models_own_whatever_the_sampling(new_stream, chunk):
    toy = Toy.start(new_stream(seed=3), GRAPHS)
    run = toy.run(depth=2)
    run.add(0, PROMPTS[0])
    wish = SamplingParams(temperature=0.5, seed=1, top_k=3, logprobs=4, prompt_logprobs=2, logit_bias={9: 3.0})
    run.add(3, PROMPTS[3], wish)
    run.generate(3, [0, 3], chunk)
    known = PROMPTS[3] + run.outputs[3]
    exact = torch.log_softmax(toy.model.all_logits(known), dim=-1)
    results = [result for result in run.results if 3 in result.rows.tolist()]
    for step, result in enumerate(results):
        position = len(PROMPTS[3]) - 1 + step
        token = known[position + 1]
        assert result.rows[result.logprobs.index].tolist() == [3]
        assert abs(result.logprobs.sampled[0] - exact[position, token]) < 1e-4
        assert result.logprobs.rank[0] == (exact[position] > exact[position, token]).sum() + 1
        np.testing.assert_allclose(result.logprobs.top[0], exact[position].topk(4).values, atol=1e-4)
    parts = [part for result in run.results for part in result.prompt_logprobs]
    positions = [part.start + i for part in parts for i in range(len(part.token))]
    assert positions == list(range(1, len(PROMPTS[3])))
    chosen = exact[range(len(positions)), known[1 : len(PROMPTS[3])]]
    np.testing.assert_allclose(np.concatenate([part.token for part in parts]), chosen, atol=1e-4)
    assert {part.top.shape[1] for part in parts} == {2}

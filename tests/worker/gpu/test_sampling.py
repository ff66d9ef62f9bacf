"""The device's sampler says what the CPU's says of the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.core.plan import StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.sampling.sampler import sample
from penstock.worker.cpu.state_table import StateTable
from penstock.worker.gpu.fields import is_edited
from penstock.worker.gpu.logprobs import LogprobReader
from penstock.worker.gpu.sampling import DeviceSampler, SampledPart, Wishes
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.step_memory import ROWS_AT_ONCE, StepMemory
from support.rows import new_row
from support.thread_stream import DEVICE

VOCABULARY, MAX_LEN, BLOCK_SIZE = 150, 40, 4
PROMPT, OUTPUTS = (1, 2, 3, 3, 9), (4, 4, 5, 2)
WISHES = {
    "nothing": {},
    "bias": {"logit_bias": {7: 4.0, 8: -9.0, 149: 5.5}},
    "minimum": {"min_tokens": 6},
    "enough outputs": {"min_tokens": 4},
    "bias on a stop token": {"min_tokens": 6, "logit_bias": {20: 50.0}},
    "repetition": {"repetition_penalty": 1.7},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 1.1},
    "negative": {"frequency_penalty": -2.0, "presence_penalty": -1.0, "repetition_penalty": 0.5},
    "logprobs": {"logprobs": 3},
    "all": {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.7,
        "logit_bias": {4: 3.0},
        "min_tokens": 9,
        "logprobs": 5,
    },
}


class Both:
    """One sampler on the device and one on the CPU, with the same rows."""

    def __init__(self, stream, samplings: list[SamplingParams]) -> None:
        count = len(samplings)
        self.stream, self.rows = stream, np.random.default_rng(1).permutation(count + 2)[:count].astype(np.int32)
        self.table, self.expected = (
            DeviceTable(count + 2, MAX_LEN, BLOCK_SIZE, stream),
            StateTable(count + 2, MAX_LEN, BLOCK_SIZE),
        )
        new = [
            new_row(row, sampling, PROMPT, OUTPUTS, (20, 21))
            for row, sampling in zip(self.rows.tolist(), samplings, strict=True)
        ]
        plan = StepPlan(
            step=0,
            freed_rows=no_ints(),
            new_rows=tuple(new),
            block_rows=no_ints(),
            block_ids=no_ints(),
            rows=self.rows,
            num_tokens=np.full(count, len(PROMPT) + len(OUTPUTS), dtype=np.int32),
        )
        self.table.set_step(self.table.apply(plan), count)
        self.table.send()
        self.expected.apply(plan)
        hidden = torch.zeros(4, 8, device=DEVICE)
        self.memory = StepMemory.allocate(hidden, vocab_size=VOCABULARY, max_num_seqs=count)
        self.sampler = DeviceSampler(self.table, self.memory, LogprobReader(stream, self.memory))

    def sample(self, logits: torch.Tensor) -> tuple[list[int], list[SampledPart]]:
        part, wishes = slice(0, len(self.rows)), Wishes.of(self.table.rows[self.rows])
        parts, on_device = self.sampler.prepare(wishes, part), logits.to(DEVICE)
        self.stream.enqueue(lambda: self.sampler.sample(on_device, part, wishes, parts))
        self.stream.record().wait()
        torch.testing.assert_close(on_device.cpu(), logits, rtol=0, atol=0, equal_nan=True)  # still the model's
        assert not self.memory.counts.any()
        return self.memory.token_ids[: len(self.rows)].tolist(), parts

    def sample_on_cpu(self, logits: torch.Tensor):
        width = max(0, int(self.expected.logprobs[self.rows].max()))
        return sample(self.expected, logits.clone(), self.rows, width)


def logits_of(count: int, seed: int = 0) -> torch.Tensor:
    """With the tokens that rows hold, and stop tokens, among the likely ones."""
    logits = torch.randn(count, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    logits[:, [*PROMPT, *OUTPUTS, 20, 21]] += 2.5
    return (logits * 4).round() / 4  # with equals


def greedy(**wish: object) -> SamplingParams:
    return SamplingParams(temperature=0.0, **wish)


@pytest.mark.parametrize("repeats", [1, 5])
def test_greedy_tokens_and_logprobs_are_the_cpus_whatever_is_wished(new_stream, repeats):
    both = Both(new_stream(), [greedy(**wish) for wish in WISHES.values() for _ in range(repeats)])
    assert (len(both.rows) > ROWS_AT_ONCE) == (repeats > 1)
    for seed in range(3 if repeats == 1 else 1):
        logits = logits_of(len(both.rows), seed)
        tokens, parts = both.sample(logits)
        right = both.sample_on_cpu(logits)
        assert tokens == right.token_ids.tolist()
        assert np.concatenate([part.index for part in parts]).tolist() == right.logprob_index.tolist()
        found = [part.logprobs.to_logprobs(part.rows) for part in parts]
        for name in ("token", "rank", "top_ids", "top"):
            values = np.concatenate([getattr(part, name) for part in found])
            np.testing.assert_allclose(values, getattr(right.logprobs, name), atol=1e-5, err_msg=name)


def test_each_wish_changes_something(new_stream):
    both = Both(new_stream(), [greedy(**wish) for wish in WISHES.values()])
    seen = {name: set() for name in WISHES}
    for seed in range(4):
        tokens, _ = both.sample(logits_of(1, seed).expand(len(WISHES), -1).contiguous())
        for name, token in zip(WISHES, tokens, strict=True):
            seen[name].add((seed, token))
    idle = {name for name in WISHES if seen[name] == seen["nothing"]}
    assert idle == {"nothing", "logprobs", "enough outputs"}


def test_drawn_tokens_obey_filters_and_wishes(new_stream):
    draws = [
        SamplingParams(temperature=1.0, seed=seed, top_k=2, logit_bias={7: 40.0, 8: 40.0, 20: 60.0}, min_tokens=9)
        for seed in range(9)
    ]
    both = Both(new_stream(), [*draws, *draws])
    tokens, _ = both.sample(torch.zeros(18, VOCABULARY))
    assert set(tokens) == {7, 8}
    assert tokens[:9] == tokens[9:]


@pytest.mark.filterwarnings("ignore:invalid value")  # the interpreter's numpy
def test_rows_of_bad_numbers_are_marked_and_their_neighbours_are_not(new_stream):
    both = Both(new_stream(), [greedy(**wish) for wish in WISHES.values()])
    logits = logits_of(len(both.rows))
    tokens, _ = both.sample(logits)
    bad = logits.clone()
    for row, value in ((0, torch.nan), (3, torch.inf), (7, torch.nan), (10, torch.nan)):
        bad[row, 33] = value
    found, _ = both.sample(bad)
    assert [i for i, token in enumerate(found) if token < 0] == [0, 3, 7, 10]
    assert [token for token in found if token >= 0] == [tokens[i] for i in range(len(tokens)) if i not in (0, 3, 7, 10)]


def test_a_step_without_wishes_copies_nothing(new_stream):
    both = Both(new_stream(), [greedy(), SamplingParams(temperature=1.0, seed=3)])
    wishes = Wishes.of(both.table.rows[both.rows])
    assert wishes.is_plain
    assert both.sampler.prepare(wishes, slice(0, 2)) == []
    both.memory.changed.fill_(torch.nan)
    both.sample(logits_of(2))
    assert both.memory.changed.isnan().all()


def test_stop_tokens_are_edits_only_until_there_are_enough_outputs(new_stream):
    both = Both(new_stream(), [greedy(min_tokens=4), greedy(min_tokens=5)])
    assert is_edited(both.table.rows[both.rows]).tolist() == [False, True]


def test_what_a_step_takes_is_known_before(new_stream):
    memory = Both(new_stream(), [greedy()]).memory
    taken = sum(getattr(memory, name).nbytes for name in StepMemory.__dataclass_fields__)
    assert StepMemory.num_bytes((4, 8), torch.float32, vocab_size=VOCABULARY, max_num_seqs=1) == taken

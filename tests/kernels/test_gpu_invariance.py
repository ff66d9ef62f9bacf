"""The same row gives the same bits, whatever stands around it: what `--deterministic` promises of the kernels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.fixed_matmul import fixed_matmul
from penstock_kernels.gpu.gated_activation import gated_activation
from penstock_kernels.gpu.gather_logprobs import gather_logprobs
from penstock_kernels.gpu.paged_attention import AttentionForm, Requests, paged_attention
from penstock_kernels.gpu.rms_norm import rms_norm
from penstock_kernels.gpu.rope_kv_write import HeadNorms, rope_kv_write
from penstock_kernels.gpu.sample_tokens import Sampling, sample_tokens

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.bfloat16)
BATCHES = (1, 3, 17, 64, 70)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* encountered in:RuntimeWarning"
)  # numpy's, of neighbours that are NaN


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=DEVICE).to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8).cpu()


def surrounded(row: torch.Tensor, batch: int) -> tuple[torch.Tensor, int]:
    """`row` [D] in a batch of others, which hold large numbers, infinities and NaN too, and where it stands."""
    others = normal(batch, len(row), seed=batch, dtype=row.dtype) * 50
    others[: batch // 4] = float("inf")
    others[batch // 2 : batch // 2 + 1] = float("nan")
    place = (7 * batch) % 5 % batch
    others[place] = row
    return others, place


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_a_matmul_does_not_depend_on_the_others(dtype):
    row, weight, bias = normal(200, dtype=dtype), normal(72, 200, seed=1, dtype=dtype), normal(72, dtype=dtype)
    found = []
    for batch in BATCHES:
        x, place = surrounded(row, batch)
        out = torch.empty(batch, 72, dtype=dtype, device=DEVICE)
        fixed_matmul(x, weight, out=out, bias=bias).run()
        found.append(bits(out[place]))
    assert all(torch.equal(one, found[0]) for one in found)
    assert not out[place].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_a_norm_and_of_an_activation_does_not_depend_on_the_others(dtype):
    row, weight = normal(192, dtype=dtype), normal(192, seed=1, dtype=dtype)
    norms, activated = [], []
    for batch in (1, 3, 17):
        x, place = surrounded(row, batch)
        residual, out = x.clone(), torch.empty_like(x)
        rms_norm(x, weight, 1e-6, out=out, residual=residual).run()
        half = torch.empty(batch, 96, dtype=dtype, device=DEVICE)
        gated_activation(x, "silu", out=half).run()
        norms.append(bits(torch.cat((out[place], residual[place]))))
        activated.append(bits(half[place]))
    assert all(torch.equal(one, norms[0]) for one in norms)
    assert all(torch.equal(one, activated[0]) for one in activated)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_is_rotated_and_kept_the_same_beside_any_others(dtype):
    row, weights = normal(4 * 32, dtype=dtype), normal(2, 32, seed=1, dtype=dtype)
    angles = normal(40, 16, seed=2)
    found = []
    for batch in (1, 5):
        qkv, place = surrounded(row, batch)
        positions = torch.arange(batch, dtype=torch.int32, device=DEVICE)
        slots = torch.arange(batch, device=DEVICE) + 20
        positions[place], slots[place] = 33, 3
        cache = torch.zeros(2, 1, 2, 2, 16, 32, dtype=dtype, device=DEVICE)
        query = torch.empty(batch, 2, 32, dtype=dtype, device=DEVICE)
        rope_kv_write(
            qkv,
            cache,
            1,
            positions=positions,
            slots=slots,
            cos_sin=torch.cat((angles.cos(), angles.sin()), dim=1),
            query=query,
            norms=HeadNorms(query=weights[0], key=weights[1], eps=1e-6),
        ).run()
        found.append(torch.cat((bits(query[place]).flatten(), bits(cache[0]).flatten())))
    assert torch.equal(found[0], found[1])


def test_a_row_of_logits_gives_the_same_token_and_the_same_logprob_beside_any_others():
    row = 3 * normal(300)
    found = []
    for batch in (1, 4):
        logits, place = surrounded(row, batch)
        limits = {"temperature": 0.9, "top_p": 0.8, "min_p": 0.01}
        sampling = Sampling(
            **{name: torch.full((batch,), value, device=DEVICE) for name, value in limits.items()},
            top_k=torch.full((batch,), 40, dtype=torch.int32, device=DEVICE),
            seed=torch.full((batch,), 11, dtype=torch.int64, device=DEVICE),
            index=torch.full((batch,), 6, dtype=torch.int32, device=DEVICE),
        )
        token_ids = torch.empty(batch, dtype=torch.int32, device=DEVICE)
        sample_tokens(logits, sampling, token_ids=token_ids).run()
        logprobs, log_totals = torch.empty(2, batch, device=DEVICE)
        ranks = torch.empty_like(token_ids)
        chosen = torch.full_like(token_ids, 17)
        gather_logprobs(logits[:, :300], chosen, logprobs=logprobs, ranks=ranks, log_totals=log_totals).run()
        found.append((int(token_ids[place]), int(ranks[place]), bits(logprobs[place : place + 1]).tolist()))
    assert found[0] == found[1]


class Prompt:
    """A request of 90 tokens whose keys are in a cache, among the blocks of another one."""

    TILE = TileShape(tokens=16, keys=32)
    HEADS, LENGTH = 2, 90

    def __init__(self, dtype: torch.dtype, window: int = 0, soft_cap: float = 0.0) -> None:
        self.query = normal(self.LENGTH + 40, self.HEADS, 32, seed=5, dtype=dtype)
        self.cache = normal(16, 1, 1, 2, 16, 32, seed=6, dtype=dtype)
        self.form = AttentionForm(scale=0.3, window=window, soft_cap=soft_cap)
        self.table = torch.randperm(16, generator=torch.Generator().manual_seed(1)).view(2, 8).int().to(DEVICE)

    def attended(self, begin: int, end: int, *, has_neighbours: bool) -> torch.Tensor:
        """What its tokens from `begin` to `end` see, computed as one chunk."""
        mine = (end - begin, end, 0)
        requests = [(23, 23, 1), mine, (1, 60, 1)] if has_neighbours else [mine]
        counts, lengths, rows = (list(column) for column in zip(*requests, strict=True))
        starts = [sum(counts[:index]) for index in range(len(counts) + 1)]
        place = starts[1] if has_neighbours else 0
        query = torch.cat([self.query[self.LENGTH : self.LENGTH + 23]] * has_neighbours + [self.query[begin:end]])
        query = torch.cat((query, self.query[-1:])) if has_neighbours else query
        schedule = AttentionSchedule.allocate(
            self.TILE, max_requests=3, max_tokens=128, num_programs=3, device=self.query.device
        )
        starts, lengths, rows = (torch.tensor(column).int().to(DEVICE) for column in (starts, lengths, rows))
        schedule.make(starts, lengths, num_kv_heads=1, window=self.form.window).run()
        out = torch.empty_like(query)
        who = Requests(query_start_loc=starts, seq_lens=lengths, rows=rows, block_table=self.table)
        for launch in paged_attention(query, self.cache, 0, who, self.form, schedule=schedule, partials=None, out=out):
            launch.run()
        return out[place : place + end - begin]


@pytest.mark.parametrize(
    ("dtype", "form"),
    [
        (torch.float32, {}),
        (torch.bfloat16, {}),
        (torch.float32, {"window": 37}),
        (torch.float32, {"soft_cap": 2.0}),
    ],
    ids=str,
)
def test_whole_tiles_give_a_token_the_same_bits_in_any_chunk_and_any_company(dtype, form):
    prompt = Prompt(dtype, **form)
    alone = prompt.attended(0, 90, has_neighbours=False)
    for cuts in ((0, 90), (0, 7, 40, 64, 89, 90)):
        chunks = [prompt.attended(*cut, has_neighbours=True) for cut in pairwise(cuts)]
        assert torch.equal(bits(torch.cat(chunks)), bits(alone)), cuts
    assert not alone.isnan().any()

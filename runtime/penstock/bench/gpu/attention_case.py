"""One step's attention over a cache like the engine's: random blocks, all layers side by side, random content."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from penstock.attention.backend import AttentionNeeds, ForwardBatch
from penstock.attention.triton import TritonAttention
from penstock.bench.gpu.shapes import BLOCK_SIZE, ModelShape, Workload
from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention

LAYER = 1  # that is measured
MEMORY_SHARE = 0.55  # of the device's, for the cache
FILL = 1024  # blocks filled at once
PROGRAMS_ON_CPU = 3
SAMPLED_REQUESTS, SAMPLED_QUERIES = 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLaunch:
    """How the kernel is cut and launched: what a sweep varies."""

    tokens: int  # of a tile of queries
    keys: int  # of a block of keys
    programs: int  # for each multiprocessor
    num_warps: int | None = None  # None: the kernel's own choice
    num_stages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCase:
    """Inputs and output of one step's attention in one layer."""

    model: ModelShape
    workload: Workload
    query: Tensor  # [T, H, D]
    kv_cache: Tensor  # [num_blocks, Hkv, layers, 2, block_size, D]
    requests: Requests
    out: Tensor  # [T, H, D]

    @property
    def form(self) -> AttentionForm:
        """Plain causal attention."""
        return AttentionForm(scale=self.model.head_dim**-0.5)

    @property
    def allowed_error(self) -> float:
        """Relative to the norm of the right output: a few roundings of the type."""
        return 1e-2 if self.query.dtype == torch.bfloat16 else 1e-4

    def backend(self, *, is_deterministic: bool = False) -> tuple[Callable[[], None], Callable[[], None]]:
        """The runtime's own attention: what it does once per step, and what in each layer."""
        model, requests = self.model, self.requests
        needs = AttentionNeeds(
            num_heads=model.heads,
            num_kv_heads=model.kv_heads,
            head_dim=model.head_dim,
            windows=(0,) * self.kv_cache.shape[2],
            device=self.query.device,
            dtype=self.query.dtype,
            kv_dtype=self.kv_cache.dtype,
            block_size=BLOCK_SIZE,
            max_requests=len(self.workload.lengths),
            max_tokens=self.workload.num_tokens,
            is_deterministic=is_deterministic,
        )
        attention = TritonAttention(needs)
        tokens = torch.zeros(self.workload.num_tokens, dtype=torch.int32, device=self.query.device)
        batch = ForwardBatch(
            input_ids=tokens,  # of no interest to attention, as positions are not
            positions=tokens,
            query_start_loc=requests.query_start_loc,
            seq_lens=requests.seq_lens,
            rows=requests.rows,
            block_table=requests.block_table,
            kv_cache=self.kv_cache,
            is_decode=self.workload.is_decode,
        )
        return lambda: attention.prepare(batch), lambda: attention.attend(LAYER, self.query, batch, self.out)

    def launches(self, how: AttentionLaunch) -> tuple[Launch, tuple[Launch, ...]]:
        """The schedule, made once per step, and what each layer runs after it."""
        device = self.query.device
        schedule = AttentionSchedule.allocate(
            TileShape(tokens=how.tokens, keys=how.keys),
            max_requests=len(self.workload.lengths),
            max_tokens=self.workload.num_tokens,
            num_programs=how.programs * num_multiprocessors(device),
            device=device,
        )
        make = schedule.make(
            self.requests.query_start_loc, self.requests.seq_lens, num_kv_heads=self.model.kv_heads, window=0
        )
        attend, *merge = paged_attention(
            self.query,
            self.kv_cache,
            LAYER,
            self.requests,
            self.form,
            schedule=schedule,
            partials=Partials.allocate(schedule, self.model.group, self.model.head_dim, device),
            out=self.out,
        )
        attend = replace(
            attend, num_warps=how.num_warps or attend.num_warps, num_stages=how.num_stages or attend.num_stages
        )
        return make, (attend, *merge)

    def cached(self, request: int) -> tuple[Tensor, Tensor]:
        """Keys and values [n, Hkv, D] of a request, in the type of the queries."""
        keys = self.workload.lengths[request][1]
        row = int(self.requests.rows[request])
        blocks = self.requests.block_table[row, : -(-keys // BLOCK_SIZE)].long()
        layer = self.kv_cache[:, :, LAYER]
        if self.workload.is_fp8:  # not every version of torch gathers float8
            layer = layer.view(torch.uint8)
        found = layer[blocks].view(self.kv_cache.dtype).to(self.query.dtype)  # [blocks, Hkv, 2, block_size, D]
        found = found.permute(2, 0, 3, 1, 4).flatten(1, 2)[:, :keys]
        return found[0], found[1]

    def error_of(self, out: Tensor) -> float:
        """How far `out` [T, H, D] is from the reference in float32, relative to its norm: at some queries of some
        requests, the first and the last among them. NaN if any element was not written."""
        if not out.isfinite().all():
            return float("nan")
        wrong = right = 0.0
        for rows, expected in self._expected():
            wrong += float((out[rows].float() - expected).square().sum())
            right += float(expected.square().sum())
        return math.sqrt(wrong / right)

    def _expected(self) -> Iterator[tuple[Tensor, Tensor]]:
        starts = self.requests.query_start_loc.tolist()
        for request in spread_over(len(self.workload.lengths), SAMPLED_REQUESTS):
            queries, num_keys = self.workload.lengths[request]
            index = torch.tensor(spread_over(queries, SAMPLED_QUERIES), device=self.query.device)
            rows = starts[request] + index
            keys, values = (part.float() for part in self.cached(request))
            query = self.query[rows].float().view(len(index), self.model.kv_heads, self.model.group, -1)
            scores = torch.einsum("qhgd,khd->qhgk", query, keys) * self.form.scale
            last = num_keys - queries + index
            is_hidden = torch.arange(num_keys, device=index.device) > last[:, None]
            scores = scores.masked_fill(is_hidden[:, None, None], float("-inf"))
            expected = torch.einsum("qhgk,khd->qhgd", scores.softmax(-1), values)
            yield rows, expected.flatten(1, 2)


def build_case(
    model: ModelShape,
    workload: Workload,
    *,
    dtype: torch.dtype,
    device: torch.device,
    most_layers: int | None = None,
) -> AttentionCase:
    """Random queries, keys and values; blocks and rows in random order; a cache of all layers, or of `most_layers`.

    Raises torch's out-of-memory error.
    """
    generator = torch.Generator(device).manual_seed(0)
    needed = [-(-keys // BLOCK_SIZE) for _, keys in workload.lengths]
    cache_type = torch.float8_e4m3fn if workload.is_fp8 else dtype
    layers = most_layers or num_layers(model, sum(needed) + 1, cache_type.itemsize, device)
    shape = (sum(needed) + 1, model.kv_heads, layers, 2, BLOCK_SIZE, model.head_dim)
    kv_cache = torch.empty(shape, dtype=cache_type, device=device)
    for first in range(0, shape[0], FILL):
        part = kv_cache[first : first + FILL, :, LAYER]
        part.copy_(torch.randn(part.shape, generator=generator, device=device))
    count = len(workload.lengths)
    order = 1 + torch.randperm(sum(needed), generator=generator, device=device).to(torch.int32)
    rows = torch.randperm(count, generator=generator, device=device).to(torch.int32)
    table = torch.full((count, max(needed)), -1, dtype=torch.int32, device=device)
    for row, part in zip(rows.tolist(), torch.split(order, needed), strict=True):
        table[row, : len(part)] = part
    starts = torch.tensor([0, *(queries for queries, _ in workload.lengths)]).cumsum(0)
    seq_lens = torch.tensor([keys for _, keys in workload.lengths], dtype=torch.int32)
    out = torch.empty(workload.num_tokens, model.heads, model.head_dim, dtype=dtype, device=device)
    return AttentionCase(
        model=model,
        workload=workload,
        query=torch.randn(out.shape, generator=generator, device=device).to(dtype),
        kv_cache=kv_cache,
        requests=Requests(
            query_start_loc=starts.to(torch.int32).to(device),
            seq_lens=seq_lens.to(device),
            rows=rows,
            block_table=table,
        ),
        out=out,
    )


def num_layers(model: ModelShape, num_blocks: int, item: int, device: torch.device) -> int:
    """As many as the model has, for strides like the engine's, or as fit."""
    if device.type != "cuda":
        return LAYER + 1
    one = num_blocks * model.kv_heads * 2 * BLOCK_SIZE * model.head_dim * item
    memory = torch.cuda.get_device_properties(device).total_memory
    return max(LAYER + 1, min(model.layers, int(MEMORY_SHARE * memory / one)))


def num_multiprocessors(device: torch.device) -> int:
    """Of a GPU; a few programs stand for them on the CPU."""
    if device.type != "cuda":
        return PROGRAMS_ON_CPU
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def spread_over(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [index * (count - 1) // (most - 1) for index in range(most)]

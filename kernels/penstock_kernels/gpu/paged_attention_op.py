"""Paged attention as the registry sees it: its reference in plain torch, and the cases that tests run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.kv_layout import NO_BLOCK, quantised
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention
from penstock_kernels.gpu.registry import Case, Inputs, Op
from penstock_kernels.kv_scales import UNSCALED, KvScales

LAYER = 1


def reference(query: Tensor, kv_cache: Tensor, requests: Requests, form: AttentionForm, scales: KvScales) -> Tensor:
    """What `paged_attention` writes, request by request and in the type of `query`."""
    heads = query.shape[1]
    out = torch.zeros_like(query)
    starts = requests.query_start_loc.tolist()
    for index, (row, seq_len) in enumerate(zip(requests.rows.tolist(), requests.seq_lens.tolist(), strict=True)):
        begin, end = starts[index], starts[index + 1]
        keys, values = cached(kv_cache, requests.block_table[row], seq_len)
        keys, values = keys.to(query.dtype) * scales.key, values.to(query.dtype) * scales.value
        group = heads // keys.shape[1]
        keys, values = (part.repeat_interleave(group, dim=1) for part in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], keys) * form.scale
        if form.soft_cap:
            scores = form.soft_cap * torch.tanh(scores / form.soft_cap)
        positions = torch.arange(seq_len, device=query.device)
        distance = positions[seq_len - (end - begin) :, None] - positions
        if form.slopes is not None:
            scores = scores - form.slopes.to(scores.dtype)[:, None, None] * distance
        is_seen = distance >= 0
        if form.window:
            is_seen &= distance < form.window
        scores = scores.masked_fill(~is_seen, float("-inf"))
        sinks = None if form.sinks is None else form.sinks.to(scores.dtype)[:, None, None].expand(-1, end - begin, 1)
        everything = scores if sinks is None else torch.cat((scores, sinks), dim=-1)
        weights = torch.softmax(everything, dim=-1)[..., :seq_len].nan_to_num()
        out[begin:end] = torch.einsum("hqk,khd->qhd", weights, values)
    return out


def cached(kv_cache: Tensor, table: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    """Keys and values [n, Hkv, D] of a request; zeros where it has no block of the cache."""
    num_blocks, block_size = kv_cache.shape[0], kv_cache.shape[4]
    token = torch.arange(seq_len, device=table.device)
    column = token // block_size
    block = table[column.clamp(max=len(table) - 1)].long()
    is_there = (column < len(table)) & (block >= 0) & (block < num_blocks)
    found = kv_cache[:, :, LAYER].float()[block * is_there, :, :, token % block_size].nan_to_num()
    found = found * is_there[:, None, None, None]
    return found[:, :, 0], found[:, :, 1]


def make_inputs(case: Case, dtype: torch.dtype, generator: torch.Generator) -> Inputs:
    """Parameters: `lengths` (queries and keys of each request), `heads`, `kv_heads`, `head_dim`; more: see `CASES`."""
    given, device = case.parameters, generator.device
    heads, kv_heads, head_dim, lengths = (given[name] for name in ("heads", "kv_heads", "head_dim", "lengths"))
    num_tokens = sum(queries for queries, _ in lengths)
    schedule = AttentionSchedule.allocate(
        TileShape(tokens=given.get("tokens", 1), keys=given.get("keys", 16), fewest_units=1),
        max_requests=len(lengths),
        max_tokens=num_tokens,
        num_programs=given.get("num_programs", 5),
        device=device,
    )
    kv_cache, requests = _filled_cache(given, torch.float8_e4m3fn if given.get("is_fp8") else dtype, generator)
    is_split = not given.get("is_whole")
    return {
        "query": torch.randn(num_tokens, heads, head_dim, generator=generator, device=device).to(dtype),
        "kv_cache": kv_cache,
        "requests": requests,
        "form": AttentionForm(
            scale=head_dim**-0.5,
            window=given.get("window", 0),
            soft_cap=given.get("soft_cap", 0.0),
            sinks=torch.randn(heads, generator=generator, device=device) if given.get("has_sinks") else None,
            slopes=torch.rand(heads, generator=generator, device=device) / 8 if given.get("has_slopes") else None,
        ),
        "scales": KvScales(key=0.5, value=2.0) if given.get("is_fp8") else UNSCALED,
        "schedule": schedule,
        "partials": Partials.allocate(schedule, heads // kv_heads, head_dim, device) if is_split else None,
        "out": torch.empty(num_tokens, heads, head_dim, dtype=dtype, device=device),
    }


def _filled_cache(given: Mapping[str, Any], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Requests]:
    """Blocks in random places; what belongs to no request (neighbours, layers, ends of blocks) is poison."""
    lengths, kv_heads, head_dim = given["lengths"], given["kv_heads"], given["head_dim"]
    block_size, device, num_rows = given.get("block_size", 16), generator.device, len(lengths) + 2
    needed = [-(-keys // block_size) for _, keys in lengths]
    num_blocks = sum(needed) + 3
    kv_cache = torch.full((num_blocks, kv_heads, 3, 2, block_size, head_dim), torch.nan, device=device).to(dtype)
    order = torch.randperm(num_blocks, generator=generator, device=device).to(torch.int32)
    table = torch.full((num_rows, max(needed) + 1), NO_BLOCK, dtype=torch.int32, device=device)
    rows = torch.randperm(num_rows, generator=generator, device=device)[: len(lengths)].to(torch.int32)
    taken = 0
    for row, count, (_, keys) in zip(rows.tolist(), needed, lengths, strict=True):
        table[row, :count] = order[taken : taken + count]
        for index, block in enumerate(order[taken : taken + count].tolist()):
            used = min(block_size, keys - index * block_size)
            content = torch.randn(kv_heads, 2, used, head_dim, generator=generator, device=device)
            kv_cache[block, :, LAYER, :, :used] = quantised(content, 0.5, dtype)
        taken += count
    if given.get("has_broken_ids"):
        table[int(rows[0]), 0], table[int(rows[1]), 0] = num_blocks + 7, NO_BLOCK
    starts = torch.tensor([0, *(queries for queries, _ in lengths)], device=device).cumsum(0).to(torch.int32)
    seq_lens = torch.tensor([keys for _, keys in lengths], dtype=torch.int32, device=device)
    return kv_cache, Requests(query_start_loc=starts, seq_lens=seq_lens, rows=rows, block_table=table)


def launches(inputs: Inputs) -> tuple[Launch, ...]:
    """The schedule, then attention, then the merge."""
    requests, form, schedule = inputs["requests"], inputs["form"], inputs["schedule"]
    kv_cache = inputs["kv_cache"]
    return (
        schedule.make(requests.query_start_loc, requests.seq_lens, num_kv_heads=kv_cache.shape[1], window=form.window),
        *paged_attention(
            inputs["query"],
            kv_cache,
            LAYER,
            requests,
            form,
            schedule=schedule,
            partials=inputs["partials"],
            out=inputs["out"],
            scales=inputs["scales"],
        ),
    )


def _reference(inputs: Inputs) -> dict[str, Tensor]:
    out = reference(inputs["query"], inputs["kv_cache"], inputs["requests"], inputs["form"], inputs["scales"])
    return {"out": out}


GQA = {"heads": 6, "kv_heads": 2, "head_dim": 64}
DECODE = ((1, 1), (1, 40), (1, 161), (1, 16))
CHUNKS = ((7, 7), (20, 61), (1, 33), (3, 19))
CASES: dict[str, dict[str, object]] = {
    "decode": {**GQA, "lengths": DECODE},
    "decode-whole-tiles": {**GQA, "lengths": DECODE, "is_whole": True},
    "decode-one-long-request": {**GQA, "lengths": ((1, 9), (1, 700), (1, 5)), "num_programs": 13},
    "decode-more-programs-than-work": {**GQA, "lengths": ((1, 3),), "num_programs": 40},
    "chunks": {**GQA, "lengths": CHUNKS, "tokens": 8},
    "chunks-whole-tiles": {**GQA, "lengths": CHUNKS, "tokens": 8, "is_whole": True},
    "one-head-per-group": {"heads": 2, "kv_heads": 2, "head_dim": 32, "lengths": CHUNKS, "tokens": 16},
    "window": {**GQA, "lengths": CHUNKS, "tokens": 8, "window": 11},
    "window-decode": {**GQA, "lengths": DECODE, "window": 33},
    "soft-cap": {**GQA, "lengths": CHUNKS, "tokens": 8, "soft_cap": 1.5},
    "sinks": {**GQA, "lengths": CHUNKS, "tokens": 8, "has_sinks": True, "window": 17},
    "alibi": {**GQA, "lengths": CHUNKS, "tokens": 8, "has_slopes": True},
    "float8": {**GQA, "lengths": CHUNKS, "tokens": 8, "is_fp8": True},
    "head-of-80": {"heads": 4, "kv_heads": 4, "head_dim": 80, "lengths": CHUNKS, "tokens": 16, "block_size": 32},
    "broken-ids": {**GQA, "lengths": CHUNKS, "tokens": 8, "has_broken_ids": True},
}

OP = Op(
    name="paged_attention",
    make_inputs=make_inputs,
    launches=launches,
    reference=_reference,
    outputs=("out",),
    cases=tuple(Case(name=name, parameters=parameters) for name, parameters in CASES.items()),
)

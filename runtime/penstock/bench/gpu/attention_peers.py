"""Other attention on the same queries, keys and values: each gets them contiguous, which no paged cache is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from penstock.bench.gpu.attention_case import AttentionCase

Attend = Callable[[], Tensor]  # [requests, queries, H, D], or [T, H, D]
FLASH_MODULES = ("flash_attn_interface", "fa3_fwd_interface")  # built from source, and of the wheel fa3-fwd


class NotComparable(Exception):
    """The peer cannot do this shape; its text says why."""


class NotInstalled(Exception):
    """The peer is not on this machine."""


def sdpa(case: AttentionCase) -> Attend:
    """torch's `scaled_dot_product_attention`, whichever kernel it chooses."""
    query, keys, values = equal_parts(case)
    is_causal = not case.workload.is_decode
    query, keys, values = (part.transpose(1, 2) for part in (query, keys.contiguous(), values.contiguous()))

    def attend() -> Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(
            query, keys, values, is_causal=is_causal, enable_gqa=True
        )
        return out.transpose(1, 2)

    return attend


def flex(case: AttentionCase) -> Attend:
    """torch's FlexAttention: compiled on a GPU; lengths and causality are a block mask."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    query, keys, values = (part.transpose(1, 2) for part in padded_parts(case))
    lengths = case.requests.seq_lens
    num_queries = query.shape[2]

    def is_seen(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q + lengths[batch] - num_queries >= k

    mask = None
    if not (case.workload.is_decode and case.workload.is_uniform):
        device = str(query.device)
        mask = create_block_mask(is_seen, len(lengths), None, num_queries, keys.shape[2], device=device)
    if query.device.type == "cpu":
        attend: Callable[..., Any] = flex_attention
    else:
        torch._dynamo.config.recompile_limit = 64
        attend = torch.compile(flex_attention, dynamic=False)
    keys, values = keys.contiguous(), values.contiguous()

    def run() -> Tensor:
        found: Tensor = attend(query, keys, values, block_mask=mask, enable_gqa=True)
        return found.transpose(1, 2)

    return run


def fa3(case: AttentionCase) -> Attend:
    """FlashAttention 3, where its module is installed and the GPU is a Hopper one."""
    module = flash_module()
    if torch.cuda.get_device_capability(case.query.device)[0] != 9:
        raise NotComparable("needs a Hopper GPU")
    if case.workload.is_fp8:
        raise NotComparable("needs float8 queries too")
    if len({queries for queries, _ in case.workload.lengths}) == 1:
        query, keys, values = padded_parts(case)
        lengths = case.requests.seq_lens
        return lambda: first_of(module.flash_attn_with_kvcache(query, keys, values, cache_seqlens=lengths, causal=True))
    parts = [case.cached(request) for request in range(len(case.workload.lengths))]
    keys, values = (torch.cat([part[index] for part in parts]) for index in range(2))
    most = [max(column) for column in zip(*case.workload.lengths, strict=True)]
    starts = case.requests.query_start_loc
    key_starts = torch.nn.functional.pad(case.requests.seq_lens.cumsum(0), (1, 0)).to(torch.int32)
    return lambda: first_of(
        module.flash_attn_varlen_func(
            case.query,
            keys,
            values,
            cu_seqlens_q=starts,
            cu_seqlens_k=key_starts,
            max_seqlen_q=most[0],
            max_seqlen_k=most[1],
            causal=True,
        )
    )


ATTENTION_PEERS: dict[str, Callable[[AttentionCase], Attend]] = {"SDPA": sdpa, "FlexAttention": flex, "FA3": fa3}


def flash_module() -> Any:
    """FlashAttention 3. Raises `NotInstalled`, or `NotComparable` for one that cannot be loaded."""
    for name in FLASH_MODULES:
        if importlib.util.find_spec(name) is not None:
            try:
                return importlib.import_module(name)
            except (ImportError, OSError, RuntimeError) as error:
                raise NotComparable(f"{name} cannot be loaded: {error}") from error
    raise NotInstalled


def first_of(found: Any) -> Tensor:
    """The output, of versions that return sums beside it too."""
    out: Tensor = found[0] if isinstance(found, tuple) else found
    return out


def equal_parts(case: AttentionCase) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [R, q, H, D], keys and values [R, k, Hkv, D]. Raises `NotComparable` if lengths differ."""
    if not case.workload.is_uniform:
        raise NotComparable("lengths differ")
    queries, keys = case.workload.lengths[0]
    if queries not in (1, keys):
        raise NotComparable("a chunk on a cache")
    return padded_parts(case)


def padded_parts(case: AttentionCase) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [R, q, H, D], keys and values [R, longest, Hkv, D], what is beyond a request's length undefined.

    Raises `NotComparable` if requests have different numbers of queries, or the cache is float8.
    """
    counts = {queries for queries, _ in case.workload.lengths}
    if len(counts) > 1:
        raise NotComparable("decode and prefill in one step")
    if case.workload.is_fp8:
        raise NotComparable("no float8 cache")
    count, longest = len(case.workload.lengths), max(keys for _, keys in case.workload.lengths)
    model = case.model
    shape = (count, longest, model.kv_heads, model.head_dim)
    keys, values = (torch.zeros(shape, dtype=case.query.dtype, device=case.query.device) for _ in range(2))
    for request in range(count):
        one_keys, one_values = case.cached(request)
        keys[request, : len(one_keys)], values[request, : len(one_values)] = one_keys, one_values
    return case.query.view(count, counts.pop(), model.heads, model.head_dim), keys, values

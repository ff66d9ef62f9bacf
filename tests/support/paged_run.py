"""Run a model step by step over a paged cache whose blocks lie scattered, as the worker would."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import torch
from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.models.blocks import CausalLM

BLOCK_SIZE = 8


class PagedRun:
    """A model, its cache and some sequences in it; blocks are dealt out at random, and unused memory holds NaN."""

    def __init__(
        self, model: CausalLM, *, num_rows: int = 4, max_length: int = 128, dtype: torch.dtype = torch.float32
    ):
        spec = model.spec
        max_blocks = -(-max_length // BLOCK_SIZE)
        num_blocks = num_rows * max_blocks
        self.model = model
        self.num_computed = [0] * num_rows
        self.device = model.cos_sin.device
        order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(7)).int()
        self.block_table = order.view(num_rows, max_blocks).to(self.device)
        shape = (num_blocks, spec.num_kv_heads, spec.num_layers, 2, BLOCK_SIZE, spec.head_dim)
        self.kv_cache = torch.full(shape, torch.nan, dtype=dtype, device=self.device)

    def batch(self, new_tokens: Mapping[int, list[int]]) -> ForwardBatch:
        """The step that computes `{row: its next tokens}`."""
        counts = [len(tokens) for tokens in new_tokens.values()]
        starts = [self.num_computed[row] for row in new_tokens]
        lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        positions = torch.cat([torch.arange(start, length) for start, length in zip(starts, lengths, strict=True)])
        owners = torch.tensor(list(new_tokens)).repeat_interleave(torch.tensor(counts))
        blocks = self.block_table.cpu()[owners, positions // BLOCK_SIZE].long()

        def ints(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=self.device)

        return ForwardBatch(
            input_ids=ints([token for tokens in new_tokens.values() for token in tokens]),
            positions=positions.int().to(self.device),
            query_start_loc=ints([0, *accumulate(counts)]),
            seq_lens=ints(lengths),
            rows=ints(list(new_tokens)),
            block_table=self.block_table,
            kv_cache=self.kv_cache,
            slots=(blocks * BLOCK_SIZE + positions % BLOCK_SIZE).to(self.device),
            is_decode=all(count == 1 for count in counts),
        )

    @torch.inference_mode()
    def step(self, new_tokens: Mapping[int, list[int]]) -> dict[int, Tensor]:
        """Compute `{row: its next tokens}` in one batch; the logits of all, `{row: [num_tokens, vocab_size]}`."""
        logits = self.model.logits(self.model.forward(self.batch(new_tokens))).cpu()
        for row, tokens in new_tokens.items():
            self.num_computed[row] += len(tokens)
        return dict(zip(new_tokens, logits.split([len(tokens) for tokens in new_tokens.values()]), strict=True))

    def in_chunks(self, row: int, token_ids: list[int], chunk: int) -> Tensor:
        """Compute a prompt in chunks: the logits of all its tokens."""
        parts = [token_ids[begin : begin + chunk] for begin in range(0, len(token_ids), chunk)]
        return torch.cat([self.step({row: part})[row] for part in parts])

    def greedy(self, prompts: Mapping[int, list[int]], count: int) -> dict[int, list[int]]:
        """`count` greedy tokens after each prompt, `{row: tokens}`, one decode step for all rows at a time."""
        outputs: dict[int, list[int]] = {row: [] for row in prompts}
        new = dict(prompts)
        for _ in range(count):
            logits = self.step(new)
            new = {row: [int(logits[row][-1].argmax())] for row in prompts}
            for row, tokens in new.items():
                outputs[row] += tokens
        return outputs

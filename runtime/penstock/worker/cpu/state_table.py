"""What the device knows of each running request: permanent rows, the same numbers as the scheduler's `RequestTable`.

A plan brings only what changed. Exact counts live here: a sampled token is appended at once, so the next plan may
already compute it before the scheduler has seen it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from penstock.core.plan import Floats, Ints, NewRow, StepPlan
from penstock.worker.prompt_spans import NO_LOGPROBS

NO_BLOCK = -1

# column -> (type, value in a row that belongs to nobody)
COLUMNS: dict[str, tuple[torch.dtype, float]] = {
    "num_tokens": (torch.int32, 0),
    "num_prompt": (torch.int32, 0),
    "num_computed": (torch.int32, 0),
    "num_blocks": (torch.int32, 0),
    "temperature": (torch.float32, 0.0),
    "top_p": (torch.float32, 1.0),
    "top_k": (torch.int32, 0),
    "min_p": (torch.float32, 0.0),
    "presence_penalty": (torch.float32, 0.0),
    "frequency_penalty": (torch.float32, 0.0),
    "repetition_penalty": (torch.float32, 1.0),
    "is_biased": (torch.bool, 0),
    "is_plain": (torch.bool, 1),
    "min_total": (torch.int32, 0),
    "seed": (torch.int64, 0),
    "logprobs": (torch.int32, NO_LOGPROBS),
    "prompt_logprobs": (torch.int32, NO_LOGPROBS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitBias:
    """What is added to which logits of a row. # both [n], ids ascending"""

    token_ids: NDArray[np.int64]
    values: Floats


class StateTable:
    """Columns of `max_num_seqs` rows in `tensors`, on the model's device; on the CPU the attributes are views of them.

    `apply` and `append` are all that changes it. A row that is freed or taken has every field set anew.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int) -> None:
        shape = (max_num_seqs,)
        self.tensors = {name: torch.full(shape, reset, dtype=dtype) for name, (dtype, reset) in COLUMNS.items()}
        max_blocks = -(-max_model_len // block_size)
        self.tensors["token_ids"] = torch.zeros((max_num_seqs, max_model_len), dtype=torch.int32)
        self.tensors["block_table"] = torch.full((max_num_seqs, max_blocks), NO_BLOCK, dtype=torch.int32)
        self.token_ids: Ints = self.tensors["token_ids"].numpy()  # [max_num_seqs, max_model_len]
        self.block_table: Ints = self.tensors["block_table"].numpy()  # row -> block ids, NO_BLOCK where there is none
        self.num_tokens: Ints = self.tensors["num_tokens"].numpy()  # known: prompt and outputs
        self.num_prompt: Ints = self.tensors["num_prompt"].numpy()
        self.num_computed: Ints = self.tensors["num_computed"].numpy()  # tokens whose KV is written
        self.num_blocks: Ints = self.tensors["num_blocks"].numpy()
        self.temperature: Floats = self.tensors["temperature"].numpy()
        self.top_p: Floats = self.tensors["top_p"].numpy()
        self.top_k: Ints = self.tensors["top_k"].numpy()  # 0: off
        self.min_p: Floats = self.tensors["min_p"].numpy()
        self.presence_penalty: Floats = self.tensors["presence_penalty"].numpy()
        self.frequency_penalty: Floats = self.tensors["frequency_penalty"].numpy()
        self.repetition_penalty: Floats = self.tensors["repetition_penalty"].numpy()
        self.is_biased: NDArray[np.bool_] = self.tensors["is_biased"].numpy()  # has an entry in `logit_bias`
        self.is_plain: NDArray[np.bool_] = self.tensors["is_plain"].numpy()  # greedy, and nothing else is asked for
        self.min_total: Ints = self.tensors["min_total"].numpy()  # stop tokens are masked below this many tokens
        self.seed: NDArray[np.int64] = self.tensors["seed"].numpy()  # the low 64 bits
        self.logprobs: Ints = self.tensors["logprobs"].numpy()  # alternatives wanted, or NO_LOGPROBS
        self.prompt_logprobs: Ints = self.tensors["prompt_logprobs"].numpy()
        self._resets = [(self.tensors[name].numpy(), reset) for name, (_, reset) in COLUMNS.items()]
        self.logit_bias: dict[int, LogitBias] = {}  # row -> …
        self.stop_ids: dict[int, NDArray[np.int64]] = {}  # row -> …, only where min_total matters

    def apply(self, plan: StepPlan) -> None:
        """Take over what a plan changes: freed rows, new rows, appended blocks, in this order."""
        if len(plan.freed_rows):
            self._reset(plan.freed_rows)
        for new in plan.new_rows:
            self._take(new)
        if len(plan.block_rows):
            self._append_blocks(plan.block_rows, plan.block_ids)

    def append(self, rows: Ints, token_ids: Ints) -> None:
        """Add one sampled token to each of these rows; a row at its full length drops it (nothing follows there)."""
        counts = self.num_tokens[rows]
        fits = counts < self.token_ids.shape[1]
        if not fits.all():
            rows, token_ids, counts = rows[fits], token_ids[fits], counts[fits]
        self.token_ids[rows, counts] = token_ids
        self.num_tokens[rows] = counts + 1

    def _reset(self, rows: Ints) -> None:
        for column, reset in self._resets:
            column[rows] = reset
        self.token_ids[rows] = 0
        self.block_table[rows] = NO_BLOCK
        for row in rows.tolist():
            self.logit_bias.pop(row, None)
            self.stop_ids.pop(row, None)

    def _take(self, new: NewRow) -> None:
        row, sampling = new.row, new.sampling
        self._reset(np.array([row], dtype=np.int32))
        self.token_ids[row, : len(new.token_ids)] = new.token_ids
        self.block_table[row, : len(new.block_ids)] = new.block_ids
        self.num_tokens[row] = len(new.token_ids)
        self.num_prompt[row] = new.num_prompt
        self.num_computed[row] = new.num_computed
        self.num_blocks[row] = len(new.block_ids)
        self.temperature[row] = 0.0 if sampling.is_greedy else sampling.temperature
        self.top_p[row] = sampling.top_p
        self.top_k[row] = max(0, sampling.top_k)
        self.min_p[row] = sampling.min_p
        self.presence_penalty[row] = sampling.presence_penalty
        self.frequency_penalty[row] = sampling.frequency_penalty
        self.repetition_penalty[row] = sampling.repetition_penalty
        self.seed[row] = np.uint64((sampling.seed or 0) & (1 << 64) - 1).astype(np.int64)
        self.logprobs[row] = NO_LOGPROBS if sampling.logprobs is None else sampling.logprobs
        self.prompt_logprobs[row] = NO_LOGPROBS if sampling.prompt_logprobs is None else sampling.prompt_logprobs
        if sampling.logit_bias:
            ids, values = zip(*sorted(sampling.logit_bias.items()), strict=True)
            self.is_biased[row] = True
            self.logit_bias[row] = LogitBias(token_ids=np.array(ids), values=np.array(values, dtype=np.float32))
        if sampling.min_tokens and new.stop_ids:
            self.min_total[row] = new.num_prompt + sampling.min_tokens
            self.stop_ids[row] = np.array(new.stop_ids, dtype=np.int64)
        is_penalised = sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty
        is_adjusted = is_penalised or sampling.logit_bias or sampling.min_tokens
        self.is_plain[row] = sampling.is_greedy and not is_adjusted and sampling.logprobs is None

    def _append_blocks(self, rows: Ints, block_ids: Ints) -> None:
        """Append block by block; a row may occur several times, its blocks then follow each other."""
        order = np.argsort(rows, kind="stable")
        taken, starts, counts = np.unique(rows[order], return_index=True, return_counts=True)
        earlier = np.arange(len(rows)) - np.repeat(starts, counts)  # blocks of the same row before this one
        columns = np.repeat(self.num_blocks[taken], counts) + earlier
        self.block_table[np.repeat(taken, counts), columns] = block_ids[order]
        self.num_blocks[taken] += counts.astype(np.int32)

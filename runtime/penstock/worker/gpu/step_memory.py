"""The memory of a step outside the model: its input, logits, and what sampling needs. Graphs know it by address."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from penstock.attention.backend import ForwardBatch
from penstock.sampling.limits import INT_BOUNDS
from penstock.worker.gpu.state_table import DeviceTable
from penstock_kernels.gpu.prepare_inputs import StepInputs
from penstock_kernels.gpu.sample_tokens import Sampling

MAX_LOGITS = 512  # rows whose logits are there at once: 300 MB at 150,000 tokens
ROWS_AT_ONCE = 32  # whose logits are changed, or looked at for log-probabilities, at once
MAX_WIDTH = INT_BOUNDS["logprobs"][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Taken once; each step uses the beginning of every tensor."""

    input_ids: Tensor  # int32 [max_tokens]
    positions: Tensor  # int32 [max_tokens]
    slots: Tensor  # int64 [max_tokens]
    query_start_loc: Tensor  # int32 [max_num_seqs + 1]
    seq_lens: Tensor  # int32 [max_num_seqs]
    selected: Tensor  # [max_logits, hidden_size] of the tokens whose logits are wanted
    logits: Tensor  # float32 [max_logits, vocab_size]
    temperature: Tensor  # float32 [max_logits], and so on: see `Sampling`
    top_k: Tensor  # int32
    top_p: Tensor  # float32
    min_p: Tensor  # float32
    seed: Tensor  # int64
    index: Tensor  # int32
    token_ids: Tensor  # int32 [max_num_seqs] what the step samples, FAILED among them
    changed: Tensor  # float32 [ROWS_AT_ONCE, vocab_size] logits as their rows want them
    counts: Tensor  # int32 [ROWS_AT_ONCE, vocab_size] of tokens that are penalised; zero between steps
    token_logprob: Tensor  # float32 [ROWS_AT_ONCE]
    token_rank: Tensor  # int32 [ROWS_AT_ONCE]
    log_total: Tensor  # float32 [ROWS_AT_ONCE]
    top: Tensor  # float32 [ROWS_AT_ONCE * MAX_WIDTH]
    top_ids: Tensor  # int64 [ROWS_AT_ONCE * MAX_WIDTH]

    @classmethod
    def allocate(
        cls, hidden: Tensor, *, vocab_size: int, max_num_seqs: int, max_logits: int = MAX_LOGITS
    ) -> StepMemory:
        """For a model that leaves its result in `hidden` [max_tokens, hidden_size]."""
        max_tokens, hidden_size = hidden.shape
        max_logits = min(max_logits, max_num_seqs)

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=hidden.device)

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=hidden.device)

        return cls(
            input_ids=ints(max_tokens),
            positions=ints(max_tokens),
            slots=ints(max_tokens, dtype=torch.int64),
            query_start_loc=ints(max_num_seqs + 1),
            seq_lens=ints(max_num_seqs),
            selected=hidden.new_zeros(max_logits, hidden_size),
            logits=floats(max_logits, vocab_size),
            temperature=floats(max_logits),
            top_k=ints(max_logits),
            top_p=floats(max_logits),
            min_p=floats(max_logits),
            seed=ints(max_logits, dtype=torch.int64),
            index=ints(max_logits),
            token_ids=ints(max_num_seqs),
            changed=floats(ROWS_AT_ONCE, vocab_size),
            counts=ints(ROWS_AT_ONCE, vocab_size),
            token_logprob=floats(ROWS_AT_ONCE),
            token_rank=ints(ROWS_AT_ONCE),
            log_total=floats(ROWS_AT_ONCE),
            top=floats(ROWS_AT_ONCE * MAX_WIDTH),
            top_ids=ints(ROWS_AT_ONCE * MAX_WIDTH, dtype=torch.int64),
        )

    @classmethod
    def num_bytes(cls, hidden_shape: tuple[int, int], dtype: torch.dtype, *, vocab_size: int, max_num_seqs: int) -> int:
        """What `allocate` takes, before it is taken; `hidden_shape` is [max_tokens, hidden_size]."""
        hidden = torch.empty(hidden_shape, dtype=dtype, device="meta")
        memory = cls.allocate(hidden, vocab_size=vocab_size, max_num_seqs=max_num_seqs)
        return sum(int(getattr(memory, name).nbytes) for name in cls.__dataclass_fields__)

    @property
    def max_tokens(self) -> int:
        """Of one step."""
        return len(self.input_ids)

    @property
    def max_logits(self) -> int:
        """Rows whose logits are there at once."""
        return len(self.logits)

    def sampling(self, begin: int, end: int) -> Sampling:
        """Parameters of some of the rows whose logits are there."""
        return Sampling(**{name: getattr(self, name)[begin:end] for name in Sampling.__dataclass_fields__})

    def inputs(self, num_tokens: int, num_requests: int) -> StepInputs:
        """Where the input of such a step is prepared."""
        return StepInputs(
            input_ids=self.input_ids[:num_tokens],
            positions=self.positions[:num_tokens],
            slots=self.slots[:num_tokens],
            query_start_loc=self.query_start_loc[: num_requests + 1],
            seq_lens=self.seq_lens[:num_requests],
        )

    def batch(self, table: DeviceTable, kv_cache: Tensor, inputs: StepInputs) -> ForwardBatch:
        """What the model is told of a step."""
        num_requests = len(inputs.seq_lens)
        return ForwardBatch(
            input_ids=inputs.input_ids,
            positions=inputs.positions,
            slots=inputs.slots,
            query_start_loc=inputs.query_start_loc,
            seq_lens=inputs.seq_lens,
            rows=table.step.rows[:num_requests],
            block_table=table.block_table,
            kv_cache=kv_cache,
            is_decode=len(inputs.input_ids) == num_requests,
        )

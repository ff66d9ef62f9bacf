"""What crosses the ZeroMQ sockets between front-ends, engine core and workers; msgpack, numpy columns as raw bytes."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.core.plan import TokenLogprobs
from penstock.core.request import Request
from penstock.internal.protocol import KvEndpoint
from penstock.kv_transfer.front_end_messages import LendNews, Strike


class AddRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the engine a request, for the first time (no `output_ids`) or again (preempted elsewhere, engine died)."""

    request: Request
    output_ids: bytes = b""  # int32, little-endian: tokens sampled so far
    lend_from: int | None = None  # hold its prompt's blocks from this one on for a peer, and tell them as they come


class ClientBatch(msgspec.Struct, frozen=True, kw_only=True, tag="batch"):
    """All that one front-end wants of the engine since its last message. Dropped if `epoch` is not the engine's own."""

    client: int
    epoch: int  # the engine's life number, which the front-end learnt from EngineReady
    add: tuple[AddRequest, ...] = ()
    abort: tuple[int, ...] = ()  # handles


class ClientHello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """A front-end (re)started: the engine aborts what this client number still had and answers with EngineReady."""

    client: int


class EngineReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The engine serves. A front-end that sees a new epoch tells again everything it has in flight."""

    epoch: int
    num_blocks: int
    block_size: int
    max_model_len: int
    session: str = ""  # random: no other life of any engine has it
    fingerprint: str = ""  # of KV blocks: model, dtype, layout
    endpoint: KvEndpoint | None = None  # where peers READ blocks, if they can
    startup_seconds: dict[str, float] = {}  # of each part of the worker's start
    memory_bytes: dict[str, int] = {}  # of the GPU, by what holds them
    headroom_bytes: int = 0  # of the GPU that nobody has taken


class EngineDown(msgspec.Struct, frozen=True, kw_only=True, tag="down"):
    """From the supervisor: the engine of this epoch died and is being restarted."""

    epoch: int


class SchedulerStats(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """Gauges and running totals of the engine; totals start at 0 with each engine life."""

    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0  # prompt tokens still to compute, of waiting requests and of running ones
    kv_usage: float = 0.0  # share of blocks held, 0 to 1
    num_preemptions: int = 0
    num_prefix_queries: int = 0  # prompt tokens looked up
    num_prefix_hits: int = 0  # … and found
    num_prompt_tokens: int = 0  # computed
    num_output_tokens: int = 0
    num_steps: int = 0
    integrity_failures: int = 0
    prefill_rate: float = 0.0  # tokens/s in steps with prompt chunks, smoothed; 0: not measured yet
    num_leases: int = 0  # of blocks held for peers
    num_pulls: int = 0  # transfers into this pod that ended well …
    num_pulled_bytes: int = 0
    num_failed_pulls: int = 0  # … and that did not
    num_fallbacks: int = 0  # requests that were prefilled here, wholly or in part, because a transfer failed
    num_waits: int = (
        0  # turns without a step because blocks were on their way: progress too, it has its own time limits
    )


class PromptLogprobsOf(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """`core.plan.PromptLogprobs` by handle instead of row."""

    handle: int
    start: int
    token: NDArray[np.float32]  # [n]
    rank: NDArray[np.int32]  # [n]
    top_ids: NDArray[np.int32]  # [n, width]
    top: NDArray[np.float32]  # [n, width]


class StepOutputs(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """One step's news for one front-end, as columns over k new tokens (at most one per request as yet)."""

    epoch: int
    handles: NDArray[np.int64]  # [k]
    token_ids: NDArray[np.int32]  # [k]
    finish: NDArray[np.uint8]  # [k] FinishReason of the choice that this token belongs to
    started: tuple[tuple[int, int], ...] = ()  # (handle, prompt tokens found in the prefix cache), with the first token
    failed: tuple[tuple[int, str], ...] = ()  # (handle, sentence): ended without a token
    logprobs: TokenLogprobs | None = None  # its `index` points into the columns above
    prompt_logprobs: tuple[PromptLogprobsOf, ...] = ()
    stats: SchedulerStats | None = None


EngineInput = ClientBatch | ClientHello
EngineOutput = StepOutputs | EngineReady | EngineDown | LendNews | Strike

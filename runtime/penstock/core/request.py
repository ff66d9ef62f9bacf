"""A request as the engine sees it: validated, immutable, and complete enough to be told again."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.sampling.params import SamplingParams


class FinishReason(enum.IntEnum):
    """Why a choice ended; 0 means that it goes on."""

    NONE = 0
    STOP = 1  # an end token, a stop token or (decided by the front-end) a stop string
    LENGTH = 2
    ABORT = 3  # the client left
    ERROR = 4


class RequestKey(NamedTuple):
    """Names a request inside the engine: which front-end process, and that process's own number for it."""

    client: int
    handle: int


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of one prompt. `n > 1` becomes n of these, which differ in `handle`, `choice` and seed."""

    client: int
    handle: int
    request_id: str  # for people: in logs and errors
    choice: int = 0
    prompt_ids: bytes  # int32, little-endian [num_prompt]
    block_hashes: bytes  # 16 bytes for each full block of the prompt, chained (core.kv.block_hash)
    root_hash: bytes  # where the chain starts: cache salt, LoRA, media
    sampling: SamplingParams  # seed always set
    stop_ids: tuple[int, ...]  # end-of-text and stop_token_ids; ends the choice once min_tokens are there
    max_total: int  # prompt plus output tokens, at most the context length
    priority: int = 0  # lower runs first
    arrival: float = 0.0  # seconds, CLOCK_MONOTONIC, which all processes of a machine share
    is_cache_read_allowed: bool = True  # False for prompt logprobs: every prompt position must be computed
    is_remote_prefill_allowed: bool = True  # False once an engine died with it: it might kill another
    prefiller: str = ""  # internal address of the prefill pod that somebody chose for it

    @property
    def key(self) -> RequestKey:
        """The engine-wide name of this request."""
        return RequestKey(self.client, self.handle)

    @property
    def num_prompt(self) -> int:
        """Length of the prompt in tokens."""
        return len(self.prompt_ids) // 4

    def prompt_array(self) -> NDArray[np.int32]:
        """Prompt token ids, read-only. # [num_prompt]"""
        return np.frombuffer(self.prompt_ids, dtype="<i4")

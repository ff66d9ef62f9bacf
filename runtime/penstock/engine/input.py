"""The one place where a request is checked and completed: every way in builds its `Request` here."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.core.kv.block_hash import hash_blocks, root_hash
from penstock.core.request import Request
from penstock.errors import InvalidRequest
from penstock.models.spec import ModelSpec
from penstock.sampling.limits import check_params, check_unicode
from penstock.sampling.params import SamplingParams
from penstock.tokenizer import Tokenizer, too_long

PRIORITY_BOUNDS = (-(1 << 31), (1 << 31) - 1)
MAX_NAME_CHARACTERS = 256  # of a request id or a cache salt
MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")  # what a model may set for us


class InputProcessor:
    """Builds validated requests with fresh handles. All errors are `InvalidRequest` and name the field."""

    def __init__(
        self,
        spec: ModelSpec,
        tokenizer: Tokenizer,
        *,
        max_model_len: int,
        block_size: int,
        client: int = 0,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        self.spec = spec
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.block_size = block_size
        self.client = client
        self._clock = clock
        self._draw_seed = draw_seed
        self._handles = itertools.count(1)
        self._eos_ids = tuple(dict.fromkeys((*spec.eos_token_ids, *tokenizer.eos_token_ids)))

    def default_params(self, **given: Any) -> SamplingParams:
        """Sampling parameters with the model's own defaults (generation_config.json) where nothing is given."""
        defaults: Mapping[str, Any] = {
            name: int(value) if name == "top_k" else value
            for name, value in self.spec.default_sampling.items()
            if name in MODEL_DEFAULTS
        }
        return SamplingParams(**{**defaults, **given})

    def build(
        self,
        prompt: str | Sequence[int] | NDArray[np.int32],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        root: bytes | None = None,
        add_special_tokens: bool = True,
        field: str = "prompt",
    ) -> list[Request]:
        """`params.n` requests for one prompt, which differ in handle, choice and seed; raises `InvalidRequest`.

        `root` is where the chain of block hashes starts, if not at the salt. `field` is what the client calls the
        prompt, for errors: chat calls it `messages`.
        """
        check_params(params, self.spec.vocab_size)
        check_name("request_id", request_id)
        if cache_salt is not None:
            check_name("cache_salt", cache_salt)
        if type(priority) is not int or not PRIORITY_BOUNDS[0] <= priority <= PRIORITY_BOUNDS[1]:
            raise InvalidRequest("priority must be an integer of 32 bits", "priority")
        prompt_ids = self.prompt_array(prompt, add_special_tokens=add_special_tokens, field=field)
        max_total = self._max_total(len(prompt_ids), params)
        root = root_hash(cache_salt) if root is None else root
        eos_ids = () if params.ignore_eos else self._eos_ids
        seed = self._draw_seed() if params.seed is None else params.seed
        first = Request(
            client=self.client,
            handle=next(self._handles),
            request_id=request_id,
            prompt_ids=prompt_ids.tobytes(),
            block_hashes=b"".join(hash_blocks(root, prompt_ids, self.block_size)),
            root_hash=root,
            sampling=msgspec.structs.replace(params, n=1, seed=choice_seed(seed, 0)),
            stop_ids=tuple(dict.fromkeys((*eos_ids, *params.stop_token_ids))),
            max_total=max_total,
            priority=priority,
            arrival=self._clock(),
            is_cache_read_allowed=params.prompt_logprobs is None,
        )
        return [first, *(self._other_choice(first, seed, choice) for choice in range(1, params.n))]

    def prompt_array(
        self, prompt: str | Sequence[int] | NDArray[np.int32], *, add_special_tokens: bool = True, field: str = "prompt"
    ) -> NDArray[np.int32]:
        """Checked token ids of a prompt, at least one and with room for one output. # [num_prompt] int32"""
        limit = self.max_model_len - 1
        if len(prompt) == 0:
            raise InvalidRequest(f"{field} is empty", field)
        if isinstance(prompt, str):
            token_ids = self.tokenizer.encode(
                prompt, add_special_tokens=add_special_tokens, max_tokens=limit, field=field
            )
            if not token_ids:
                raise InvalidRequest(f"{field} has no tokens", field)
            return np.array(token_ids, dtype="<i4")
        if len(prompt) > limit:
            raise too_long(limit, field, len(prompt))
        return token_id_array(prompt, self.spec.vocab_size, field)

    def _max_total(self, num_prompt: int, params: SamplingParams) -> int:
        """Prompt plus output tokens at most; raises when that is beyond the context."""
        if params.max_tokens is None:
            room = self.max_model_len - num_prompt
            if params.min_tokens > room:
                raise InvalidRequest(
                    f"min_tokens {params.min_tokens:,} is more than the {room:,} tokens left in the context",
                    "min_tokens",
                )
            return self.max_model_len
        if num_prompt + params.max_tokens > self.max_model_len:
            raise InvalidRequest(
                f"max_tokens {params.max_tokens:,} and a prompt of {num_prompt:,} tokens are more than the context of "
                f"{self.max_model_len:,} tokens",
                "max_tokens",
            )
        return num_prompt + params.max_tokens

    def _other_choice(self, first: Request, seed: int, choice: int) -> Request:
        """The same request for another choice."""
        sampling = msgspec.structs.replace(first.sampling, seed=choice_seed(seed, choice))
        return msgspec.structs.replace(first, handle=next(self._handles), choice=choice, sampling=sampling)


def choice_seed(seed: int, choice: int) -> int:
    """The seed of one choice, in [0, 2**63): the same for ever, and unlike those of other choices and seeds."""
    digest = blake2b(seed.to_bytes(8, "little", signed=True) + choice.to_bytes(4, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def check_name(field: str, name: str) -> None:
    """Raise `InvalidRequest` for a name that is no text, empty or too long."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARACTERS:
        raise InvalidRequest(f"{field} must have 1 to {MAX_NAME_CHARACTERS} characters", field)
    check_unicode(name, field)


def token_id_array(prompt: Sequence[int] | NDArray[np.int32], vocab_size: int, field: str) -> NDArray[np.int32]:
    """Token ids as an array, each an integer in [0, vocab_size); raises `InvalidRequest`. # [n] int32"""
    if isinstance(prompt, np.ndarray):
        is_valid = prompt.ndim == 1 and prompt.dtype.kind in "iu" and prompt.min() >= 0 and prompt.max() < vocab_size
    else:
        is_valid = all(type(i) is int for i in prompt) and min(prompt) >= 0 and max(prompt) < vocab_size
    if not is_valid:
        raise InvalidRequest(f"{field}: token ids must be integers between 0 and {vocab_size - 1:,}", field)
    return np.array(prompt, dtype="<i4")

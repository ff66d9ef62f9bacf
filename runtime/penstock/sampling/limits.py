"""How far each field of `SamplingParams` may go: the one place where its bounds are written, and their check."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from penstock.errors import InvalidRequest
from penstock.sampling.params import SamplingParams

INT_BOUNDS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "n": (1, 128),
        "max_tokens": (1, 1 << 24),
        "min_tokens": (0, 1 << 24),
        "top_k": (-1, 1 << 24),
        "seed": (-(1 << 63), (1 << 63) - 1),
        "logprobs": (0, 20),
        "prompt_logprobs": (0, 20),
    }
)  # field -> lowest and highest value

FLOAT_BOUNDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "temperature": (0.0, 100.0),
        "top_p": (0.0, 1.0),  # 0 itself is refused: it would leave no token
        "min_p": (0.0, 1.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
        "repetition_penalty": (0.0, 10.0),  # 0 itself is refused: logits are divided by it
    }
)  # field -> lowest and highest value
ABOVE_ZERO = frozenset({"top_p", "repetition_penalty"})
OPTIONAL = frozenset({"max_tokens", "seed", "logprobs", "prompt_logprobs"})  # fields that may be None
FLAGS = ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens")

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1_000  # of one stop string
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIAS = 1_024  # entries
LOGIT_BIAS_BOUNDS = (-100.0, 100.0)


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidRequest` with the field's name for a wrong type, a value out of bounds or a contradiction.

    `vocab_size` is the width of the logits.
    """
    for name, (low, high) in INT_BOUNDS.items():
        value = getattr(params, name)
        if value is None and name in OPTIONAL:
            continue
        if type(value) is not int:
            raise InvalidRequest(f"{name} must be an integer", name)
        if not low <= value <= high:
            raise InvalidRequest(f"{name} must be between {low:,} and {high:,}", name)
    for name, bounds in FLOAT_BOUNDS.items():
        check_number(name, getattr(params, name), bounds)
        if name in ABOVE_ZERO and getattr(params, name) == 0:
            raise InvalidRequest(f"{name} must be more than 0", name)
    for name in FLAGS:
        if type(getattr(params, name)) is not bool:
            raise InvalidRequest(f"{name} must be true or false", name)
    if params.max_tokens is not None and params.min_tokens > params.max_tokens:
        raise InvalidRequest(
            f"min_tokens {params.min_tokens} is more than max_tokens {params.max_tokens}", "min_tokens"
        )
    check_stops(params, vocab_size)
    check_logit_bias(params, vocab_size)


def check_number(name: str, value: Any, bounds: tuple[float, float]) -> None:
    """Raise `InvalidRequest` unless `value` is a finite number within `bounds` (inclusive)."""
    if type(value) not in (int, float):
        raise InvalidRequest(f"{name} must be a number", name)
    if not bounds[0] <= value <= bounds[1] or not math.isfinite(value):
        raise InvalidRequest(f"{name} must be between {bounds[0]:g} and {bounds[1]:g}", name)


def check_unicode(text: str, field: str) -> None:
    """Raise `InvalidRequest` for lone surrogates, which are no text."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{field} holds a lone surrogate, which is no valid text", field) from None


def check_token_id(name: str, value: Any, vocab_size: int) -> None:
    """Raise `InvalidRequest` unless `value` is the id of a token."""
    if type(value) is not int or not 0 <= value < vocab_size:
        raise InvalidRequest(f"{name}: a token id must be an integer between 0 and {vocab_size - 1:,}", name)


def check_stops(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidRequest` for stop strings or stop token ids that are too many, too long or not valid."""
    if not isinstance(params.stop, tuple | list) or len(params.stop) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"stop must be a list of at most {MAX_STOP_STRINGS} strings", "stop")
    for stop in params.stop:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise InvalidRequest(f"stop strings must have 1 to {MAX_STOP_CHARACTERS:,} characters", "stop")
        check_unicode(stop, "stop")
    if not isinstance(params.stop_token_ids, tuple | list) or len(params.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequest(f"stop_token_ids must be a list of at most {MAX_STOP_TOKEN_IDS} ids", "stop_token_ids")
    for token_id in params.stop_token_ids:
        check_token_id("stop_token_ids", token_id, vocab_size)


def check_logit_bias(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidRequest` for a logit bias with too many entries, unknown tokens or values out of bounds."""
    if not isinstance(params.logit_bias, dict) or len(params.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidRequest(f"logit_bias must be a mapping of at most {MAX_LOGIT_BIAS:,} entries", "logit_bias")
    for token_id, bias in params.logit_bias.items():
        check_token_id("logit_bias", token_id, vocab_size)
        check_number("logit_bias", bias, LOGIT_BIAS_BOUNDS)

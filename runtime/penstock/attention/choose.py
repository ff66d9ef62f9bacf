"""Which backend computes attention: the one that was asked for if it can, else the faster of those that can."""

from __future__ import annotations

import logging
from functools import partial

import torch
import triton

from penstock.attention import flash3
from penstock.attention.backend import AttentionBackend, AttentionNeeds
from penstock.attention.flash3 import Flash3Attention, FlashBuild
from penstock.attention.torch import TorchAttention
from penstock.attention.trial import Measure, chunk_seconds, seconds_on_gpu
from penstock.attention.triton import TritonAttention
from penstock.errors import ConfigError
from penstock.logs import event

BACKENDS = ("auto", "triton", "flash3", "torch")
LARGEST_HEAD = 512
FLOAT8_CAPABILITY = (8, 9)  # the first that converts float8_e4m3

_log = logging.getLogger(__name__)


def choose_backend(name: str, needs: AttentionNeeds, measure: Measure = seconds_on_gpu) -> AttentionBackend:
    """The backend of that name (`BACKENDS`), with its memory; `auto` takes FlashAttention 3 where it can be used and is
    faster, else Triton. Raises `ConfigError` that says what to change where it cannot do what the model needs."""
    assert name in BACKENDS, f"no attention backend is called {name!r}"
    capability = capability_of(needs.device)
    if (problem := refusal_of_cache(needs, capability)) is not None:
        raise ConfigError("kv_cache_dtype", problem)
    if name == "torch":
        if needs.is_deterministic:
            raise ConfigError("attention_backend", "torch does not promise that a row's bits are its own; use triton")
        return TorchAttention(needs)
    build = flash3.find_build() if name != "triton" and capability is not None else None
    if name == "flash3" or (name == "auto" and build is not None):
        problem = flash3.refusal(needs, build, capability)
        if build is not None:
            problem = problem or flash3.failure(needs, build)
            if problem is None and (name == "flash3" or is_faster(needs, build, measure)):
                return Flash3Attention(needs, build)
        if name == "flash3":
            raise ConfigError("attention_backend", f"flash3 cannot be used: {problem}, or --attention-backend triton")
        if problem is not None:
            event(_log, "attention.without_flash3", why=problem)
    if (problem := refusal_of_triton(needs, capability)) is not None:
        raise ConfigError("attention_backend", f"triton cannot be used: {problem}")
    return TritonAttention(needs)


def is_faster(needs: AttentionNeeds, build: FlashBuild, measure: Measure) -> bool:
    """Whether FlashAttention 3 takes less time for a chunk than our kernel."""
    flash3_seconds = chunk_seconds(partial(Flash3Attention, build=build), needs, measure)
    triton_seconds = chunk_seconds(TritonAttention, needs, measure)
    event(_log, "attention.compared", flash3_ms=1000 * flash3_seconds, triton_ms=1000 * triton_seconds)
    return flash3_seconds < triton_seconds


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Of a GPU; None for any other device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def refusal_of_cache(needs: AttentionNeeds, capability: tuple[int, int] | None) -> str | None:
    """Why no backend can have such a cache, which is written by our kernel for all of them; None if they can."""
    if needs.kv_dtype.itemsize == 1 and capability is not None and capability < FLOAT8_CAPABILITY:
        return f"fp8 needs compute capability 8.9, and this GPU has {capability[0]}.{capability[1]}; use auto"
    return None


def refusal_of_triton(needs: AttentionNeeds, capability: tuple[int, int] | None) -> str | None:
    """Why our kernel cannot do it, and what to change; None if it can."""
    if capability is None and not triton.knobs.runtime.interpret:
        return f"it needs a GPU and finds the device {needs.device}; use --device cpu, whose attention is its own"
    if needs.head_dim > LARGEST_HEAD:
        return f"heads of {needs.head_dim} elements are more than {LARGEST_HEAD}; use --attention-backend torch"
    return None

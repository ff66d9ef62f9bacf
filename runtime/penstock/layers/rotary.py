"""Rotary position embedding: the table of cosines and sines, with the rescalings that extend a model's context.

Sources: RoFormer (arXiv 2104.09864), position interpolation (2306.15595), YaRN (2309.00071), Llama 3.1's model card.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def rotary_table(
    head_dim: int, theta: float, scaling: Mapping[str, Any] | None, *, length: int, context: int
) -> Tensor:
    """Float32 [length, head_dim]: the cosines of each position, then its sines.

    `scaling` is None or has a `rope_type` among linear, dynamic, llama3 and yarn. Dynamic scaling begins beyond the
    model's context, which is also the most that is served, so it changes nothing. `context` is the model's.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies = 1.0 / (theta**exponents)
    attention_factor = 1.0
    if scaling is not None:
        rescale = RESCALINGS[scaling["rope_type"]]
        frequencies, attention_factor = rescale(frequencies, theta, scaling, context)
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=1) * attention_factor


def rescale_linear(frequencies: Tensor, theta: float, scaling: Mapping[str, Any], context: int) -> tuple[Tensor, float]:
    """Position interpolation: all frequencies divided by the factor."""
    return frequencies / scaling["factor"], 1.0


def rescale_dynamic(
    frequencies: Tensor, theta: float, scaling: Mapping[str, Any], context: int
) -> tuple[Tensor, float]:
    """Nothing, as long as no sequence is longer than the context."""
    return frequencies, 1.0


def rescale_llama3(frequencies: Tensor, theta: float, scaling: Mapping[str, Any], context: int) -> tuple[Tensor, float]:
    """Llama 3.1: low frequencies divided by the factor, high ones kept, a ramp between."""
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = original * frequencies / (2 * math.pi)  # full turns within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling["factor"]), 1.0


def rescale_yarn(frequencies: Tensor, theta: float, scaling: Mapping[str, Any], context: int) -> tuple[Tensor, float]:
    """YaRN: a ramp over the dimensions between kept and divided frequencies, and a temperature for the attention."""
    factor = scaling["factor"]
    original = scaling.get("original_max_position_embeddings", context)
    head_dim = 2 * frequencies.shape[0]

    def dimension(turns: float) -> float:
        return head_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.get("beta_fast", 32)), dimension(scaling.get("beta_slow", 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = (torch.arange(head_dim // 2).float() - low) / (max(high - low, 0.001))
    kept = 1 - ramp.clamp(0, 1)
    return frequencies * (kept + (1 - kept) / factor), yarn_attention_factor(factor, scaling)


def yarn_attention_factor(factor: float, scaling: Mapping[str, Any]) -> float:
    """What YaRN multiplies cosines and sines with, in place of a temperature."""

    def growth(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if (given := scaling.get("attention_factor")) is not None:
        return float(given)
    weight, weight_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
    return growth(weight) / growth(weight_all) if weight and weight_all else growth(1.0)


RESCALINGS: Mapping[str, Callable[[Tensor, float, Mapping[str, Any], int], tuple[Tensor, float]]] = {
    "linear": rescale_linear,
    "dynamic": rescale_dynamic,
    "llama3": rescale_llama3,
    "yarn": rescale_yarn,
}

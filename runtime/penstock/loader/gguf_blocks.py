"""Turn GGUF's quantised blocks into a form neutral to the machine: a plane of numbers, one of scales, one of minima.

A weight is `scale * u + minimum` with an unsigned `u` of 4 or 8 bits. No information is lost: scales stay fp16 where
the block has fp16 ones and become fp32 where they are products. Layouts: ggml's `ggml-common.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockForm:
    """What a kind of block becomes."""

    bits: int  # 4: two elements in a byte, element 2i in the low half; 8: one
    group: int  # elements that share a scale and a minimum
    scale_dtype: str  # numpy's name of the type of scales and minima
    planes: Callable[[Bytes], tuple[Bytes, NDArray[Any], NDArray[Any]]]  # [rows, row bytes] -> (data, scale, minimum)


def half_floats(block_bytes: Bytes) -> NDArray[np.float16]:
    """The fp16 number in the two bytes of the last axis, with that axis gone."""
    return np.ascontiguousarray(block_bytes).view("<f2")[..., 0]


def nibbles(halves: Bytes) -> tuple[Bytes, Bytes]:
    """Pack the low and the high halves of neighbouring bytes: `[..., n]` -> twice `[..., n / 2]`, first element low."""
    words = np.ascontiguousarray(halves).view("<u2")
    low = (words & 0x0F) | ((words >> 4) & 0xF0)
    high = ((words >> 4) & 0x0F) | ((words >> 8) & 0xF0)
    return low.astype(np.uint8), high.astype(np.uint8)


def planes_q4_1(data: Bytes) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """Q4_1: scale, minimum, 32 numbers of 4 bits."""
    blocks = data.reshape(len(data), -1, 20)
    numbers = np.concatenate(nibbles(blocks[..., 4:]), axis=-1)
    return numbers.reshape(len(data), -1), half_floats(blocks[..., :2]), half_floats(blocks[..., 2:4])


def planes_q4_0(data: Bytes) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """Q4_0: scale, 32 numbers of 4 bits, zero at 8."""
    blocks = data.reshape(len(data), -1, 18)
    numbers = np.concatenate(nibbles(blocks[..., 2:]), axis=-1)
    scale = half_floats(blocks[..., :2])
    return numbers.reshape(len(data), -1), scale, np.float16(-8) * scale


def planes_q8_0(data: Bytes) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """Q8_0: scale, 32 signed numbers of 8 bits."""
    blocks = data.reshape(len(data), -1, 34)
    scale = half_floats(blocks[..., :2])
    numbers = blocks[..., 2:] ^ np.uint8(0x80)
    return numbers.reshape(len(data), -1), scale, np.float16(-128) * scale


def planes_q4_k(data: Bytes) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """Q4_K: 8 groups of 32; their scales and minima are 6-bit multiples of the block's two fp16 numbers."""
    blocks = data.reshape(len(data), -1, 144)
    six = blocks[..., 4:16]
    first, second, third = six[..., 0:4], six[..., 4:8], six[..., 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=-1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=-1)
    chunks = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)  # low halves: first 32 of 64, high halves: the others
    numbers = np.stack(nibbles(chunks), axis=-2)
    scale = half_floats(blocks[..., 0:2]).astype(np.float32)[..., None] * scales
    minimum = half_floats(blocks[..., 2:4]).astype(np.float32)[..., None] * -minima.astype(np.float32)
    return numbers.reshape(len(data), -1), scale.reshape(len(data), -1), minimum.reshape(len(data), -1)


def planes_q6_k(data: Bytes) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """Q6_K: 16 groups of 16 numbers of 6 bits, zero at 32, with signed 8-bit scales."""
    blocks = data.reshape(len(data), -1, 210)
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 2, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    parts = np.concatenate([low & 15, low >> 4], axis=-2)  # [.., half, quarter, 32]
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    numbers = parts | ((high >> shifts & 3) << 4)
    scales = np.ascontiguousarray(blocks[..., 192:208]).view(np.int8)
    scale = half_floats(blocks[..., 208:210]).astype(np.float32)[..., None] * scales
    scale = scale.reshape(len(data), -1)
    return numbers.reshape(len(data), -1), scale, np.float32(-32) * scale


BLOCK_FORMS = {
    "Q4_0": BlockForm(bits=4, group=32, scale_dtype="<f2", planes=planes_q4_0),
    "Q4_1": BlockForm(bits=4, group=32, scale_dtype="<f2", planes=planes_q4_1),
    "Q8_0": BlockForm(bits=8, group=32, scale_dtype="<f2", planes=planes_q8_0),
    "Q4_K": BlockForm(bits=4, group=32, scale_dtype="<f4", planes=planes_q4_k),
    "Q6_K": BlockForm(bits=8, group=16, scale_dtype="<f4", planes=planes_q6_k),
}

"""Matmuls against plain float32 torch: every kind of weight, odd shapes, everything that is fused around them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from penstock_kernels.cpu.ops import ComputeType, QuantWeight, quantize
from penstock_kernels.cpu.reference import ReferenceWeight

ROWS = (1, 2, 3, 5, 8, 17, 64, 200)
KINDS = (
    "float32",
    "bfloat16",
    "int8",
    "int4",
    "int8_symmetric",
    "int8_wide_scales",
    "int4_wide_scales",
    "int4_group_64",
)
SHAPES = ((70, 32), (33, 160), (96, 576))
"""[N, K], K a multiple of 32 for quantised weights."""
ODD_SHAPES = ((7, 1), (17, 63), (40, 131))
TOLERANCE = {"float32": 2e-6, "bfloat16": 8e-3, "int": 2.5e-2}
"""Twice what rounding the activations alone costs: bfloat16 has 8 bits, int8 groups about 7."""


def build_weight(kind, rows, columns):
    weight = torch.randn(rows, columns) / columns**0.5
    if kind in ("float32", "bfloat16"):
        return weight.to(getattr(torch, kind))
    if kind == "int8_symmetric":
        grouped = weight.view(rows, -1, 32)
        scale = (grouped.abs().amax(-1) / 127).half()
        integers = (grouped / scale.float()[..., None]).round().clamp(-127, 127) + 128
        data = integers.to(torch.uint8).flatten(1)
        return QuantWeight(bits=8, data=data, scale=scale, minimum=(scale.float() * -128).half(), group=32)
    bits = int(kind[3])
    if kind.endswith("group_64"):
        return quantize(weight.repeat(1, 2), bits, group=64)
    plain = quantize(weight, bits)
    if not kind.endswith("wide_scales"):
        return plain
    scale, minimum = (part.float() * (1 + 2.0**-14) for part in (plain.scale, plain.minimum))
    return QuantWeight(bits=bits, data=plain.data, scale=scale, minimum=minimum, group=32)


def expand(weight):
    return weight.dequantize() if isinstance(weight, QuantWeight) else weight.float()


def tolerance(kind, compute):
    if compute is ComputeType.FLOAT32:
        return TOLERANCE["float32"]
    return TOLERANCE["int"] if kind.startswith("int") else TOLERANCE["bfloat16"]


@pytest.mark.parametrize("compute", list(ComputeType))
@pytest.mark.parametrize("kind", KINDS)
def test_linear_is_close_to_float32_for_any_shape(backend, kind, compute, relative_error):
    for rows, columns in SHAPES + (() if kind.startswith("int") else ODD_SHAPES):
        weight = build_weight(kind, rows, columns)
        packed = backend.pack(weight, compute=compute, bias=None, interleave_gate=False)
        assert (packed.out_features, packed.in_features) == expand(weight).shape
        for count in ROWS:
            x = torch.randn(count, packed.in_features)
            out = torch.full((count, rows), float("nan"))
            assert packed.linear(x, out=out) is out
            assert relative_error(out, x @ expand(weight).T) < tolerance(kind, compute) * (4 if columns == 1 else 1)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8_symmetric", "int4"])
@pytest.mark.parametrize("compute", list(ComputeType))
def test_norm_bias_gate_and_residual_are_fused(backend, kind, compute, relative_error):
    weight, bias, norm = build_weight(kind, 2 * 41, 96), torch.randn(82), torch.rand(96) + 0.5
    packed = backend.pack(weight, compute=compute, bias=bias, interleave_gate=True)
    for count in (1, 4, 33):
        x, residual = torch.randn(count, 96) * 3, torch.randn(count, 41)
        normed = functional.rms_norm(x, (96,), norm, 1e-5)
        gate, up = (normed @ expand(weight).T + bias).chunk(2, dim=1)
        found = packed.linear(x, norm, 1e-5, residual.clone())
        assert relative_error(found, functional.silu(gate) * up + residual) < 2 * tolerance(kind, compute)


def test_out_may_be_the_residual_or_the_input(backend):
    packed = backend.pack(torch.randn(64, 64), compute=ComputeType.FLOAT32, bias=None, interleave_gate=False)
    x, residual = torch.randn(5, 64), torch.randn(5, 64)
    expected = packed.linear(x, residual=residual)
    in_place = residual.clone()
    packed.linear(x, residual=in_place, out=in_place)
    assert torch.equal(in_place, expected)
    packed.linear(x, residual=residual, out=x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", list(ComputeType))
def test_compiled_kernels_and_torch_round_alike(compiled, kind, compute, relative_error):
    weight, bias = build_weight(kind, 70, 96), torch.randn(70)
    packed = compiled.pack(weight, compute=compute, bias=bias, interleave_gate=True)
    reference = ReferenceWeight(weight, compute=compute, bias=bias, interleave_gate=True)
    for count in (1, 6, 50):
        x = torch.randn(count, packed.in_features)
        assert relative_error(packed.linear(x), reference.linear(x)) < 2e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compute", list(ComputeType))
def test_embedding_gives_the_rows_of_the_packed_weight(backend, kind, compute):
    weight = build_weight(kind, 70, 96)
    packed = backend.pack(weight, compute=compute, bias=None, interleave_gate=False)
    expected = expand(weight)
    if kind == "float32" and compute is ComputeType.BFLOAT16:
        expected = expected.bfloat16().float()
    for dtype in (torch.int32, torch.int64):
        ids = torch.tensor([69, 0, 15, 16, 33, 0], dtype=dtype)
        torch.testing.assert_close(packed.embedding(ids), expected[ids.long()], rtol=1e-6, atol=1e-6)
    for wrong in (-71, 70):
        with pytest.raises(IndexError):
            packed.embedding(torch.tensor([0, wrong]))


def test_rms_norm_matches_torch(backend):
    for shape in ((1, 16), (3, 63), (40, 576)):
        x, weight = torch.randn(shape) * 5, torch.rand(shape[1])
        expected = functional.rms_norm(x, (shape[1],), weight, 1e-6)
        torch.testing.assert_close(backend.rms_norm(x, weight, 1e-6), expected, rtol=2e-6, atol=2e-6)


def test_a_group_of_zeros_stays_zero(backend):
    packed = backend.pack(
        quantize(torch.randn(16, 64), 4), compute=ComputeType.BFLOAT16, bias=None, interleave_gate=False
    )
    assert torch.equal(packed.linear(torch.zeros(3, 64)), torch.zeros(3, 16))


def test_tensors_that_would_be_misread_are_refused(compiled):
    packed = compiled.pack(torch.randn(8, 64), compute=ComputeType.FLOAT32, bias=None, interleave_gate=False)
    for x in (torch.randn(2, 63), torch.randn(2, 64).double(), torch.randn(64, 2).T):
        with pytest.raises(ValueError, match="dense float32"):
            packed.linear(x)

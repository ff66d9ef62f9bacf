"""Group-wise quantisation: what it keeps and what it refuses."""

from __future__ import annotations

import pytest
import torch

from penstock_kernels.cpu.ops import QuantWeight, quantize


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64])
def test_quantize_stays_within_half_a_step(bits, group):
    weight = torch.randn(40, 192)
    quantized = quantize(weight, bits, group)
    assert (quantized.out_features, quantized.in_features) == (40, 192)
    step = quantized.scale.float().repeat_interleave(group, dim=1)
    assert ((quantized.dequantize() - weight).abs() <= step * 0.5 + weight.abs() * 2e-3 + 1e-3).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_constant_group_is_kept(bits):
    assert torch.equal(quantize(torch.full((2, 32), 0.5), bits).dequantize(), torch.full((2, 32), 0.5))


def test_nibbles_hold_even_elements_low():
    data = (torch.arange(16) * 16 + 1).to(torch.uint8)[None]
    weight = QuantWeight(bits=4, data=data, scale=torch.ones(1, 1).half(), minimum=torch.zeros(1, 1).half(), group=32)
    expected = torch.stack((torch.ones(16), torch.arange(16.0)), dim=1).flatten()[None]
    assert torch.equal(weight.dequantize(), expected)


def test_other_bits_and_shapes_are_refused():
    with pytest.raises(ValueError, match="bits"):
        quantize(torch.randn(2, 32), 5)
    with pytest.raises(ValueError, match="shape"):
        quantize(torch.randn(2, 33), 4)

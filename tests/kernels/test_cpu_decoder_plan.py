"""Whole decoder layers in one call give the bits of the small functions."""

from __future__ import annotations

import pytest
import torch

from penstock_kernels.cpu.decoder_plan import DecoderLayer, DecoderShape, StepwisePlan
from penstock_kernels.cpu.ops import ComputeType, quantize

HIDDEN, HEADS, KV_HEADS, DIM, WIDE, LAYERS = 96, 6, 2, 16, 160, 3


def build_layers(backend, has_head_norms=False):
    def pack(rows, columns, **options):
        weight = quantize(torch.randn(rows, columns) / columns**0.5, 4)
        return backend.pack(weight, compute=ComputeType.BFLOAT16, bias=None, interleave_gate=options.get("gate", False))

    return [
        DecoderLayer(
            input_norm=torch.rand(HIDDEN),
            qkv=pack((HEADS + 2 * KV_HEADS) * DIM, HIDDEN),
            output=pack(HIDDEN, HEADS * DIM),
            mlp_norm=torch.rand(HIDDEN),
            gate_up=pack(2 * WIDE, HIDDEN, gate=True),
            down=pack(HIDDEN, WIDE),
            q_norm=torch.rand(DIM) if has_head_norms else None,
            k_norm=torch.rand(DIM) if has_head_norms else None,
            sliding_window=index * 8,
        )
        for index in range(LAYERS)
    ]


@pytest.mark.parametrize("has_head_norms", [False, True])
def test_a_plan_gives_the_bits_of_the_small_functions(backend, build_inputs, has_head_norms):
    layers = build_layers(backend, has_head_norms)
    shape = DecoderShape(num_heads=HEADS, scale=DIM**-0.5, eps=1e-5)
    inputs = build_inputs((3, 1, 20), (30, 9, 20), 8, DIM)
    cache = torch.randn(inputs.block_table.numel(), KV_HEADS, LAYERS, 2, 8, DIM).bfloat16()
    hidden = torch.randn(24, HIDDEN)
    expected, other = hidden.clone(), cache.clone()
    StepwisePlan(layers, shape, backend.attention).run(expected, other, inputs)
    plan = backend.decoder_plan(layers, shape)
    whole, in_parts, cache_of_parts = hidden.clone(), hidden.clone(), cache.clone()
    plan.run(whole, cache, inputs)
    plan.run(in_parts, cache_of_parts, inputs, end=1)
    plan.run(in_parts, cache_of_parts, inputs, first=1)
    for found, found_cache in ((whole, cache), (in_parts, cache_of_parts)):
        assert torch.equal(found, expected)
        assert torch.equal(found_cache, other)


def test_parts_that_do_not_fit_are_refused(compiled, build_inputs):
    layers = build_layers(compiled)
    shape = DecoderShape(num_heads=HEADS, scale=1.0, eps=1e-5)
    wrong = DecoderLayer(
        input_norm=layers[0].input_norm,
        qkv=layers[0].qkv,
        output=layers[0].down,
        mlp_norm=layers[0].mlp_norm,
        gate_up=layers[0].qkv,
        down=layers[0].down,
    )
    with pytest.raises(ValueError, match="other sizes"):
        compiled.decoder_plan([wrong], shape)
    plan = compiled.decoder_plan(layers, shape)
    inputs = build_inputs((2,), (2,), 8, DIM)
    with pytest.raises(ValueError, match="not among"):
        plan.run(torch.zeros(2, HIDDEN), torch.zeros(1, KV_HEADS, LAYERS - 1, 2, 8, DIM), inputs)
    with pytest.raises(ValueError, match="heads"):
        plan.run(torch.zeros(2, HIDDEN), torch.zeros(1, KV_HEADS + 1, LAYERS, 2, 8, DIM), inputs)

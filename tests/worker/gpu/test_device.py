"""Which GPU a worker takes, and what it says of one that it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from penstock.config import CacheConfig, ComputeConfig, EngineConfig, ModelConfig, TransferConfig
from penstock.errors import ConfigError
from penstock.worker.gpu.device import GpuFacts, look_at_gpu
from penstock.worker.gpu.settings import check_gpu_settings
from penstock.worker.worker import choose_device

H200 = GpuFacts(torch_version="2.11", built_for="13.0", driver=(13, 1), name="H200", capability=(9, 0))
NONE = GpuFacts(torch_version="2.13.0+cpu", built_for=None, driver=None)

UNUSABLE = [
    (replace(H200, built_for=None, name=None), "torch 2.11 is built without CUDA; install a torch that has it"),
    (replace(H200, driver=None, name=None), "no usable CUDA device .no NVIDIA driver.*; install one"),
    (
        replace(H200, driver=(12, 8), name=None),
        "driver is too old: it knows CUDA 12.8, and torch 2.11 needs 13.0; update the driver",
    ),
    (replace(H200, name=None), "no usable CUDA device; look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
    (
        replace(H200, name="Tesla T4", capability=(7, 5)),
        r"Tesla T4 has compute capability 7.5, and 8.0 \(Ampere\) is needed",
    ),
    (replace(H200, has_triton=False), "Triton is missing; pip install triton"),
]


def test_auto_takes_a_gpu_that_can_be_used():
    assert choose_device(ComputeConfig(), H200) == "cuda"
    assert choose_device(ComputeConfig(), replace(H200, driver=(13, 0))) == "cuda"
    assert choose_device(ComputeConfig(), replace(H200, capability=(8, 0))) == "cuda"
    assert choose_device(ComputeConfig(), replace(H200, built_for="12.8")) == "cuda"
    assert choose_device(ComputeConfig(device="cpu"), H200) == "cpu"


@pytest.mark.parametrize(("facts", "message"), UNUSABLE, ids=[words for _, words in UNUSABLE])
def test_one_that_cannot_be_used_is_a_clear_line_or_for_auto_the_cpu(facts: GpuFacts, message: str):
    assert choose_device(ComputeConfig(), facts) == "cpu"
    with pytest.raises(ConfigError, match=f"^--device: cuda was asked for, but .*{message}.*, or use --device cpu$"):
        choose_device(ComputeConfig(device="cuda"), facts)


def test_auto_says_why_it_leaves_a_gpu_alone_but_nothing_where_there_is_none(caplog: pytest.LogCaptureFixture):
    choose_device(ComputeConfig(), NONE)
    assert not caplog.messages
    choose_device(ComputeConfig(), replace(H200, capability=(7, 0)))
    assert [message.startswith("gpu.unused why='H200 has") for message in caplog.messages] == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_is_seen_as_one():
    assert look_at_gpu().problem is not None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EngineConfig(model=ModelConfig(quantization="int4")), "^--quantization: int4 .* or use --device cpu$"),
        (EngineConfig(compute=ComputeConfig(optimize=2, deterministic=True)), "^--optimize: 2 .*; use --optimize 1$"),
    ],
)
def test_what_a_gpu_does_not_do_yet_is_refused_by_name(config: EngineConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        check_gpu_settings(config)


def test_the_rest_is_not_refused():
    check_gpu_settings(EngineConfig(compute=ComputeConfig(attention_backend="torch", optimize=2), cache=CacheConfig()))
    check_gpu_settings(EngineConfig(transfer=TransferConfig(role="decode", kv_offload_memory=1 << 30)))

"""What `--optimize 2` compiles, as it is written; that it can be compiled is tested where whole steps are."""

from __future__ import annotations

from pathlib import Path

import torch

from penstock.attention.torch import TorchAttention
from penstock.layers.workspace import Workspace
from penstock.models.blocks import CausalLM
from penstock.models.registry import run_on_gpu
from support.gpu_models import DEVICE, LIMITS, attention_needs, load_gpu_model
from support.paged_run import PagedRun
from support.tiny_models import save_tiny_model


def load(folder: Path, *, is_compiled: bool) -> CausalLM:
    model = load_gpu_model(folder)
    workspace = Workspace(model.spec, LIMITS, torch.float32, DEVICE)
    run_on_gpu(model, workspace, TorchAttention(attention_needs(model.spec)), is_compiled=is_compiled)
    return model


def test_says_the_same_as_our_kernels(tmp_path: Path) -> None:
    save_tiny_model(tmp_path, num_hidden_layers=2, attention_bias=True, mlp_bias=True)
    step = {0: list(range(40, 49)), 2: [7]}
    found, right = (PagedRun(load(tmp_path, is_compiled=is_compiled)).step(step) for is_compiled in (True, False))
    for row in step:
        torch.testing.assert_close(found[row], right[row], atol=1e-4, rtol=1e-4)

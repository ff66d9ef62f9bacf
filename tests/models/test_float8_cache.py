"""A whole model whose keys and values no float8 holds, with a calibrated float8 cache, against `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from penstock.attention.torch import TorchAttention
from penstock.attention.triton import TritonAttention
from support.gpu_models import FLOAT8_CACHE, load_gpu_model
from support.loud_models import save_loud_model
from support.paged_run import PagedRun
from support.reference import reference_logits
from support.tiny_models import save_tiny_model

PROMPT = torch.randint(3, 320, (12,), generator=torch.Generator().manual_seed(1)).tolist()
CLOSE = 0.4  # the interpreter halves what it rounds up to a power of two


@dataclass(frozen=True, slots=True, kw_only=True)
class Folders:
    """The same model three times, and its logits."""

    quiet: Path
    loud: Path
    calibrated: Path  # the loud one with its scales
    logits: Tensor  # by `transformers`


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    quiet, loud, calibrated = (tmp_path_factory.mktemp(name) for name in ("quiet", "loud", "calibrated"))
    logits = reference_logits(save_tiny_model(quiet, num_hidden_layers=2, head_dim=16), PROMPT)
    save_loud_model(quiet, loud, has_scales=False)
    save_loud_model(quiet, calibrated, has_scales=True)
    return Folders(quiet=quiet, loud=loud, calibrated=calibrated, logits=logits)


def run_of(folder: Path, attention: type[TritonAttention | TorchAttention]) -> tuple[PagedRun, Tensor]:
    """A model after the prompt in a chunk, another beside a stranger, and decodes, and its logits [12, vocab_size]."""
    run = PagedRun(load_gpu_model(folder, attention=attention, config=FLOAT8_CACHE), dtype=torch.float8_e4m3fn)
    parts = [run.step({1: PROMPT[:5]})[1], run.step({0: PROMPT[:2], 1: PROMPT[5:10]})[1]]
    return run, torch.cat([*parts, *(run.step({1: [token]})[1] for token in PROMPT[10:])])


def error_of(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())


@pytest.mark.parametrize("attention", [TritonAttention, TorchAttention])
def test_scales_of_the_checkpoint_make_a_float8_cache_hold_its_keys_and_values(
    folders: Folders, attention: type[TritonAttention | TorchAttention]
) -> None:
    (quiet_run, quiet), (run, found) = (run_of(folder, attention) for folder in (folders.quiet, folders.calibrated))
    assert torch.equal(run.kv_cache.view(torch.uint8), quiet_run.kv_cache.view(torch.uint8))
    torch.testing.assert_close(found, quiet, atol=1e-5, rtol=1e-5)
    assert error_of(found, folders.logits) < CLOSE


def test_without_scales_keys_and_values_saturate(folders: Folders) -> None:
    run, found = run_of(folders.loud, TritonAttention)
    largest = run.kv_cache.float().nan_to_num().abs().amax(dim=(0, 1, 2, 4, 5))
    assert largest.tolist() == [448.0, 448.0]
    assert error_of(found, folders.logits) > 2 * CLOSE

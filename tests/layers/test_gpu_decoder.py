"""How a step is cut, that its pieces can be kept, and that they take no memory while they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from penstock.attention.torch import TorchAttention
from penstock.layers import gpu_decoder
from penstock.models.blocks import CausalLM
from penstock_kernels.gpu.kv_layout import NO_SLOT
from penstock_kernels.gpu.launch import Launch
from penstock_kernels.gpu.matvec import MOST_ROWS, matvec_kernel
from support.gpu_models import load_gpu_model
from support.paged_run import PagedRun
from support.tiny_models import save_tiny_model

PROMPT = list(range(40, 49))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CausalLM]:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny_model(folder, "Qwen2", num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    with torch.inference_mode():
        yield load_gpu_model(folder, attention=TorchAttention)


def test_between_two_attentions_lies_one_piece(model: CausalLM) -> None:
    segments = model.segments(PagedRun(model).batch({0: PROMPT}))
    assert [segment.is_attention for segment in segments] == [True, False] * (1 + model.spec.num_layers)


@torch.inference_mode()
def test_kept_segments_compute_whatever_their_tensors_hold_then(model: CausalLM) -> None:
    run, right = PagedRun(model), PagedRun(model)
    kept = run.batch({2: PROMPT[:4], 0: PROMPT[:2]})
    segments = model.segments(kept)
    for new in ({2: PROMPT[:4], 0: PROMPT[:2]}, {1: PROMPT[3:7], 2: PROMPT[4:6]}):
        batch = run.batch(new)
        for name in ("input_ids", "positions", "query_start_loc", "seq_lens", "rows", "slots"):
            getattr(kept, name).copy_(getattr(batch, name))
        for segment in segments:
            segment.run()
        logits = model.logits(model.hidden[:6]).cpu()
        assert torch.equal(logits, torch.cat(list(right.step(new).values())))
        for row, tokens in new.items():
            run.num_computed[row] += len(tokens)


@torch.inference_mode()
def test_padding_changes_nothing_and_writes_nothing(model: CausalLM) -> None:
    run, right = PagedRun(model), PagedRun(model)
    batch, count, device = run.batch({1: PROMPT}), len(PROMPT), run.device
    padding = torch.full((5,), 7, dtype=torch.int32, device=device)
    assert batch.slots is not None
    padded = replace(
        batch,
        input_ids=torch.cat([batch.input_ids, padding]),
        positions=torch.cat([batch.positions, padding]),
        slots=torch.cat([batch.slots, torch.full((5,), NO_SLOT, device=device)]),
    )
    for segment in model.segments(padded):
        segment.run()
    logits = model.logits(model.hidden[:count]).cpu()
    torch.testing.assert_close(logits, right.step({1: PROMPT})[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(run.kv_cache.isnan(), right.kv_cache.isnan())


@torch.inference_mode()
def test_few_rows_go_through_kernels_of_their_own_and_say_the_same(
    model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, ran, run = ({0: [50], 2: [51]}, {2: [52]}), Counter[object](), Launch.run

    def counted(launch: Launch) -> None:
        ran[launch.kernel] += 1
        run(launch)

    monkeypatch.setattr(Launch, "run", counted)
    few, batched = PagedRun(model), PagedRun(model)
    for paged in (few, batched):
        paged.step({0: PROMPT, 2: PROMPT[::-1]})
    assert not ran[matvec_kernel]
    found = [few.step(step) for step in steps]
    assert ran[matvec_kernel] == len(steps) * (4 * model.spec.num_layers + 1)
    monkeypatch.setattr(gpu_decoder, "MOST_ROWS", 0)
    for step, logits in zip(steps, found, strict=True):
        for row, right in batched.step(step).items():
            torch.testing.assert_close(logits[row], right, atol=1e-5, rtol=1e-5)
    assert ran[matvec_kernel] == len(steps) * (4 * model.spec.num_layers + 1)


class Allocations(TorchDispatchMode):
    """Names of the operations that gave a tensor of memory that was not among their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [value for value in (*args, *(kwargs or {}).values()) if isinstance(value, torch.Tensor)]
        known = {value.untyped_storage().data_ptr() for value in given}
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in known:
            self.found.append(str(func))
        return result


@torch.inference_mode()
@pytest.mark.parametrize("count", [MOST_ROWS, len(PROMPT)])
def test_takes_no_memory_while_it_runs(model: CausalLM, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(Launch, "run", lambda _: None)  # in the interpreter they copy
    segments = model.segments(PagedRun(model).batch({0: PROMPT[:count]}))
    selected, out = model.hidden[:count].clone(), model.hidden.new_empty(count, model.spec.vocab_size)
    with Allocations() as seen:
        torch.empty(1)
        for segment in segments:
            if not segment.is_attention:
                segment.run()
        model.logits(selected, out)
    assert seen.found == ["aten.empty.memory_format"]

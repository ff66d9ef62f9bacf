"""Which backend is taken, and one clear line where none can be."""

from __future__ import annotations

import logging

import pytest
import torch

from penstock.attention import choose, flash3
from penstock.attention.choose import choose_backend
from penstock.attention.flash3 import FlashBuild
from penstock.attention.trial import Measure
from penstock.errors import ConfigError
from support.gpu_attention import needs_of

BFLOAT16 = needs_of(dtype=torch.bfloat16, kv_dtype=torch.bfloat16)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "capability_of", lambda _: (9, 0))
    monkeypatch.setattr(flash3, "find_build", lambda: FlashBuild(module=None, flags={}))
    monkeypatch.setattr(flash3, "failure", lambda *_: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is chosen without a GPU")
@pytest.mark.parametrize(("name", "chosen"), [("auto", "triton"), ("triton", "triton"), ("torch", "torch")])
def test_without_a_gpu_there_are_triton_and_torch(name: str, chosen: str) -> None:
    assert choose_backend(name, BFLOAT16).name == chosen


def test_torch_makes_no_promise_of_a_rows_bits() -> None:
    with pytest.raises(ConfigError, match="use triton"):
        choose_backend("torch", needs_of(is_deterministic=True))


def measure_of(flash3_seconds: float, triton_seconds: float) -> Measure:
    """Nothing runs; FlashAttention is asked for first."""
    times = iter((flash3_seconds, triton_seconds))
    return lambda _: next(times)


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(("times", "chosen"), [((0.002, 0.003), "flash3"), ((0.003, 0.002), "triton")])
def test_on_hopper_flash3_is_taken_where_it_is_installed_and_faster(
    times: tuple[float, float], chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert choose_backend("auto", BFLOAT16, measure_of(*times)).name == chosen
    assert caplog.messages == [f"attention.compared flash3_ms={times[0] * 1000:.3g} triton_ms={times[1] * 1000:.3g}"]


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("name", ["flash3", "triton", "torch"])
def test_a_backend_that_was_asked_for_is_not_timed(name: str) -> None:
    assert choose_backend(name, BFLOAT16, lambda _: pytest.fail("timed")).name == name


@pytest.mark.usefixtures("on_hopper")
def test_what_flash3_cannot_do_goes_to_triton_unless_it_was_asked_for() -> None:
    needs = needs_of()  # float32
    assert choose_backend("auto", needs).name == "triton"
    with pytest.raises(ConfigError, match=r"attention.backend.*flash3.*float32; use --dtype bfloat16, or --attention"):
        choose_backend("flash3", needs)


@pytest.mark.usefixtures("on_hopper")
def test_what_failed_its_trial_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash3, "failure", lambda *_: "it failed a trial: no")
    assert choose_backend("auto", BFLOAT16).name == "triton"
    with pytest.raises(ConfigError, match="flash3 cannot be used: it failed a trial: no, or"):
        choose_backend("flash3", BFLOAT16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a GPU")
def test_flash3_without_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs Hopper .* finds no GPU, or --attention-backend triton"):
        choose_backend("flash3", BFLOAT16)


def test_heads_that_are_too_large_are_refused_by_triton_alone() -> None:
    needs = needs_of(head_dim=640)
    for name in ("auto", "triton"):
        with pytest.raises(ConfigError, match="640 elements are more than 512; use --attention-backend torch"):
            choose_backend(name, needs)
    assert choose_backend("torch", needs).name == "torch"


@pytest.mark.parametrize("name", ["auto", "triton", "torch"])
def test_float8_needs_a_gpu_that_converts_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = needs_of(kv_dtype=torch.float8_e4m3fn)
    monkeypatch.setattr(choose, "capability_of", lambda _: (8, 0))
    with pytest.raises(ConfigError, match=r"^--kv-cache-dtype: fp8 needs .* 8\.9, and this GPU has 8\.0; use auto$"):
        choose_backend(name, needs)
    monkeypatch.setattr(choose, "capability_of", lambda _: (8, 9))
    assert choose_backend(name, needs).name == ("torch" if name == "torch" else "triton")


@pytest.mark.skipif(torch.cuda.is_available(), reason="what is refused without a GPU")
def test_without_gpu_and_interpreter_triton_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose.triton.knobs.runtime, "interpret", False)
    with pytest.raises(ConfigError, match="needs a GPU and finds the device cpu"):
        choose_backend("auto", BFLOAT16)

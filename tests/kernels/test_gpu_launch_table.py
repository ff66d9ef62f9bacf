"""The table of tiles, warps and stages, and the command that would measure them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from penstock_kernels.gpu import tune
from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.fixed_matmul import fixed_matmul
from penstock_kernels.gpu.launch_table import Entry, LaunchShape, entries_from, launch_shape, table, text_of
from penstock_kernels.gpu.paged_attention import tile_for

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shape(*tile: int) -> LaunchShape:
    return LaunchShape(tile=tile, warps=4, stages=2)


def test_the_last_entry_that_fits_counts():
    text = """[
      {"op": "a", "tile": [1], "warps": 4, "stages": 2},
      {"op": "a", "sizes": [65, 128], "capabilities": [80, 90], "tile": [2], "warps": 4, "stages": 2},
      {"op": "a", "dtype": "float32", "tile": [3], "warps": 8, "stages": 1}
    ]"""
    entries = entries_from(text)

    def found(*key) -> tuple[int, ...]:
        return [one.shape.tile for one in entries if one.fits(*key)][-1]

    assert found("a", "bfloat16", 64, 90) == (1,)
    assert found("a", "bfloat16", 128, 90) == (2,)
    assert found("a", "bfloat16", 128, 120) == (1,)
    assert found("a", "float32", 128, 90) == (3,)
    assert not any(one.fits("b", "float32", 128, 90) for one in entries)


def test_a_table_survives_being_written_and_read():
    entries = (
        *table(),
        Entry(op="a", shape=shape(1, 2), dtype="float32", sizes=(1, 2), capabilities=(90, 100)),
    )
    assert entries_from(text_of(entries)) == entries


def test_the_checked_in_table_has_a_tile_for_every_lookup():
    for op in ("gated_activation", "copy_blocks", "sample_tokens", "gather_logprobs"):
        assert len(launch_shape(op, dtype=torch.bfloat16, size=128, device=CPU).tile) == 1
    assert len(launch_shape("fixed_matmul", dtype=torch.bfloat16, size=128, device=CPU).tile) == 3
    with pytest.raises(KeyError, match="no entry for op 'paged'"):
        launch_shape("paged", dtype=torch.bfloat16, size=128, device=CPU)


def test_tiles_of_attention_hold_as_many_rows_for_any_group():
    for group, tokens in ((1, 128), (3, 32), (4, 32), (256, 1)):
        tile = tile_for(group=group, head_dim=128, cache_dtype=torch.bfloat16, device=CPU, is_decode=False)
        assert tile.tokens == tokens
        tile = tile_for(group=group, head_dim=128, cache_dtype=torch.bfloat16, device=CPU, is_decode=True)
        assert tile.tokens == 1


def test_a_step_of_another_size_needs_no_other_kernel():
    schedule = AttentionSchedule.allocate(
        TileShape(tokens=4, keys=16), max_requests=64, max_tokens=256, num_programs=8, device=CPU
    )
    weight = torch.empty(64, 32)

    def constants(size: int) -> list[dict[str, object]]:
        column, x = torch.zeros(size, dtype=torch.int32), torch.empty(size, 32)
        scheduled = schedule.make(column.new_zeros(size + 1), column, num_kv_heads=2, window=0)
        return [dict(one.constants) for one in (scheduled, fixed_matmul(x, weight, out=torch.empty(size, 64)))]

    assert constants(1) == constants(16) == constants(63)


@pytest.mark.parametrize("is_decode", [True, False])
def test_what_is_measured_of_attention_is_attention(is_decode):
    problem = tune.attention(DEVICE, 64, torch.bfloat16, is_decode=is_decode, count=2, seq_len=32)
    small = problem.candidates[0]
    results = []
    for launch in problem.launches(small):
        launch.run()
        results.append((launch.num_warps, launch.num_stages))
    assert results[0] == (small.warps, small.stages)
    out = launch.args["out_ptr"]
    assert out.isfinite().all()
    assert out.float().norm() > 0


def test_what_is_measured_of_a_matmul_is_cut_as_asked():
    problem = tune.matmul(DEVICE, 64, (1, 64), depth=32)
    launches = problem.launches(LaunchShape(tile=(16, 32, 64), warps=8, stages=1))
    assert {(one.constants["ROWS"], one.constants["COLUMNS"], one.num_warps) for one in launches} == {(16, 32, 8)}


def test_tuning_puts_the_fastest_candidate_behind_the_table(monkeypatch):
    times = {shape(1): 3.0, shape(2): 1.0, shape(3): None}
    problems = [
        tune.Problem(op=op, dtype="bfloat16", sizes=(1, 9), candidates=tuple(times), launches=lambda _: ())
        for op in ("a", "b")
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tune, "capability_of", lambda _: 90)
    monkeypatch.setattr(tune, "problems", lambda _: problems)
    monkeypatch.setattr(tune, "tried", lambda _problem, one, _device: times[one])
    best = Entry(op="b", dtype="bfloat16", sizes=(1, 9), capabilities=(90,), shape=shape(2))
    assert tune.tune(["b"], seconds=60) == (*table(), best)
    monkeypatch.setattr(tune, "table", lambda: (dataclasses.replace(best, shape=shape(1)),))
    assert tune.tune(["b"], seconds=60) == (best,), "what was known of that case is replaced"
    assert tune.tune(["b"], seconds=0) == tune.table(), "no time, no change"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_tuning_without_a_gpu_ends_with_one_line():
    command = [sys.executable, "-m", "penstock_kernels.gpu.tune", "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "tuning needs a GPU, and torch sees none here\n"

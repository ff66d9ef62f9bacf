"""What a kernel's figure is a share of, from bytes and operations that can be counted by hand."""

from __future__ import annotations

import json
import math

import pytest

from penstock.bench.gpu.clock import Timing
from penstock.bench.gpu.figure import NOT_INSTALLED, Figure, PeerFigure
from penstock.bench.gpu.limits import Limits
from penstock.bench.gpu.shapes import BALANCED, LLAMA_8B, QWEN_06B, SKEWED, Workload, decode, prefill
from penstock.bench.kernels import exit_code, print_table, skew_ratios

LIMITS = Limits(copy=4e12, matmul=800e12, launch=2e-6)


def timing(seconds: float) -> Timing:
    return Timing.of([seconds], is_graph=True)


def figure(**changes: object) -> Figure:
    given = {"op": "copy", "model": "", "shape": "large", "num_bytes": 4_000_000, "operations": 0}
    given |= {"timing": timing(2e-6), "error": 0.0, "allowed": 1e-2}
    return Figure(**(given | changes))


def test_decode_attention_reads_every_key_and_value_once():
    # one request: 4,096 keys and values of 8 heads of 128 bf16 numbers, and 32 heads of queries in and outputs out
    assert decode(1, 4096).attention_bytes(LLAMA_8B, 2) == 4096 * 2 * 8 * 128 * 2 + 2 * 32 * 128 * 2
    assert decode(64, 4096).attention_bytes(QWEN_06B, 2) == 64 * (4096 * 2 * 8 * 128 * 2 + 2 * 16 * 128 * 2)
    keys = decode(1, 4096, is_fp8=True).attention_bytes(LLAMA_8B, 2) - 2 * 32 * 128 * 2
    assert keys == 4096 * 2 * 8 * 128


def test_causal_attention_multiplies_only_pairs_that_are_seen():
    assert prefill(3).attention_operations(LLAMA_8B) == 4 * (1 + 2 + 3) * 32 * 128
    assert decode(2, 7).attention_operations(LLAMA_8B) == 4 * 2 * 7 * 32 * 128
    chunk = Workload(name="", lengths=((2, 5),))  # the first query sees 4 keys, the second 5
    assert chunk.attention_operations(LLAMA_8B) == 4 * 9 * 32 * 128


def test_the_skewed_and_the_balanced_batch_have_the_same_keys():
    assert len(SKEWED.lengths) == len(BALANCED.lengths) == 32
    assert SKEWED.num_keys == BALANCED.num_keys == 131072 + 31 * 4096


def test_the_share_is_of_what_binds():
    copied, multiplied = figure(), figure(operations=1_600_000_000_000, timing=timing(4e-3))
    assert copied.share(LIMITS) == pytest.approx(0.5)  # a microsecond's worth of copying in two
    assert multiplied.share(LIMITS) == pytest.approx(0.5)
    assert multiplied.as_json(LIMITS)["bound"] == "matmul"
    assert multiplied.as_json(LIMITS)["rate"] == pytest.approx(400)
    assert copied.as_json(LIMITS)["rate"] == pytest.approx(2000)


@pytest.mark.parametrize("error", [0.5, math.nan, math.inf])
def test_a_wrong_output_has_no_figure_but_the_word_and_fails_the_command(error, capsys):
    wrong = figure(error=error, shape="this one")
    found = wrong.as_json(LIMITS)
    assert found["verdict"] == "wrong"
    assert all(found[name] is None for name in ("microseconds", "rate", "percent"))
    assert exit_code([figure(), wrong]) == 1
    head = {"device": "a GPU", "limits": {"copy_gb_per_s": 1.0, "matmul_tflop_per_s": 1.0, "launch_us": 1.0}}
    print_table(head | {"figures": [found], "left_out": [], "skewed_over_balanced": {}})
    assert "wrong" in capsys.readouterr().out


def test_only_too_little_memory_excuses_a_kernel_that_did_not_run():
    full = figure(timing=None, note="OutOfMemoryError: CUDA out of memory")
    assert (full.verdict, exit_code([full])) == ("not run", 0)
    broken = figure(timing=None, note="CompilationError: at 3:4")
    assert (broken.verdict, exit_code([broken])) == ("failed", 1)


def test_a_peer_that_is_not_there_says_so_in_its_column(capsys):
    peers = {"FA3": PeerFigure(note=NOT_INSTALLED), "SDPA": PeerFigure(timing=timing(4e-6))}
    found = figure(peers=peers).as_json(LIMITS)
    assert found["peers"]["FA3"] == {
        "microseconds": None,
        "low": None,
        "high": None,
        "repeats": 0,
        "is_graph": False,
        "percent": None,
        "note": "not installed",
    }
    assert found["peers"]["SDPA"]["percent"] == pytest.approx(25)
    head = {"device": "a GPU", "limits": {"copy_gb_per_s": 1.0, "matmul_tflop_per_s": 1.0, "launch_us": 1.0}}
    print_table(head | {"figures": [found], "left_out": [], "skewed_over_balanced": {}})
    printed = capsys.readouterr().out
    assert "not installed" in printed
    assert "4.0 (25 %)" in printed


def test_skew_is_compared_with_the_same_keys_in_equal_parts():
    attention = {"op": "paged_attention", "model": "m"}
    skewed = figure(**attention, shape=SKEWED.name, timing=timing(3e-4))
    balanced = figure(**attention, shape=BALANCED.name, timing=timing(2e-4))
    assert skew_ratios([skewed, balanced]) == {"m": pytest.approx(1.5)}
    assert skew_ratios([skewed]) == {}
    assert skew_ratios([figure(**attention, shape=SKEWED.name, error=1.0), balanced]) == {}


def test_a_figure_is_strict_json():
    json.dumps(figure(error=math.nan).as_json(LIMITS), allow_nan=False)


def test_the_spread_leaves_a_tenth_out_at_each_end():
    found = Timing.of([float(number) for number in range(1, 21)], is_graph=True)
    assert (found.low, found.median, found.high) == (3.0, 10.5, 18.0)

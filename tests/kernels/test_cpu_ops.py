"""The public interface: what is chosen at import, what is refused, and life with threads and forks."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from penstock_kernels.cpu import build, library, limits, ops

HAS_COMPILER = any(shutil.which(name) for name in build.COMPILERS)


def test_a_machine_with_a_compiler_runs_compiled_kernels():
    if not HAS_COMPILER:
        pytest.skip("no compiler")
    assert ops.is_compiled(), "run python -m penstock_kernels.cpu.build"
    assert ops.backend_name().startswith("c++ ")


def test_without_compiled_kernels_torch_runs_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(ops, "runnable_variants", list)
    ops._backend.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert ops.backend_name() == "torch"
            assert not ops.is_compiled()
        assert len(caplog.records) == 1
    finally:
        ops._backend.cache_clear()


def test_building_twice_compiles_once():
    if not HAS_COMPILER:
        pytest.skip("no compiler")
    before = {path: path.stat().st_mtime_ns for path in build.build()}
    assert before == {path: path.stat().st_mtime_ns for path in build.build()}
    assert library.runnable_variants()


def test_stale_kernels_are_not_loaded(monkeypatch):
    monkeypatch.setattr(build, "sources_digest", lambda: "0" * 64)
    assert library.runnable_variants() == []


def test_no_compiler_is_one_warning_and_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(build, "sources_digest", lambda: "0" * 64)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert build.main() == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warning: no C++ compiler")
    assert len(captured.err.splitlines()) == 1


def test_weights_that_do_not_fit_are_refused():
    compute = ops.ComputeType.BFLOAT16
    with pytest.raises(ValueError, match="float matrix"):
        ops.pack(torch.zeros(4, dtype=torch.float32), compute=compute)
    with pytest.raises(ValueError, match="bias"):
        ops.pack(torch.zeros(4, 4), compute=compute, bias=torch.zeros(3))
    with pytest.raises(ValueError, match="gate"):
        ops.pack(torch.zeros(5, 4), compute=compute, interleave_gate=True)
    narrow = ops.quantize(torch.randn(4, 32), 4, group=16)
    with pytest.raises(ValueError, match="groups of 16"):
        ops.pack(narrow, compute=compute)
    with pytest.raises(ValueError, match="threads"):
        ops.set_num_threads(0)


def test_calls_from_many_threads_do_not_disturb_each_other():
    weight = ops.pack(ops.quantize(torch.randn(256, 256), 4), compute=ops.ComputeType.BFLOAT16)
    inputs = [torch.randn(count, 256) for count in range(1, 30)]
    expected = [ops.linear(x, weight) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda x: ops.linear(x, weight), inputs)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def _linear_in_child(queue: multiprocessing.Queue[float]) -> None:
    weight = ops.pack(torch.ones(512, 64), compute=ops.ComputeType.FLOAT32)
    queue.put(float(ops.linear(torch.ones(20, 64), weight).sum()))


def test_a_forked_child_computes_although_the_parents_threads_are_gone():
    ops.set_num_threads(2)
    weight = ops.pack(torch.ones(512, 64), compute=ops.ComputeType.FLOAT32)
    expected = float(ops.linear(torch.ones(20, 64), weight).sum())
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_linear_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(timeout=30)
    assert child.exitcode == 0


def test_the_machines_limits_are_measured(monkeypatch):
    monkeypatch.setattr(limits, "READ_BYTES", 16 << 20)
    monkeypatch.setattr(limits, "MATMUL_SIZE", 256)
    assert limits.measure_read_bandwidth(2) > 1e8
    assert limits.measure_matmul(torch.float32) > 1e8


def test_the_kernels_import_neither_runtime_nor_operator():
    code = "import sys, penstock_kernels.cpu.ops; sys.exit(bool({'penstock', 'penstock_operator'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

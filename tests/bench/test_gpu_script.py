"""`bench/gpu.py` as it runs on a GPU's machine, here with tiny shapes; and the page that is made of what it finds."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from support.serving import wait_for

ROOT = Path(__file__).parents[2]
FIGURE = {"op", "model", "shape", "microseconds", "low", "high", "repeats", "is_graph", "bytes", "operations", "bound"}
FIGURE |= {"rate", "unit", "percent", "error", "allowed", "verdict", "note", "peers"}
STUBBORN = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sh", "-c", "trap '' INT; sleep 60"])
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1]).write_text(str(child.pid))
"""


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu():
    return script("gpu")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")
    words = ["--out", str(out), "--smoke", "--commit", "abc123", "--seconds", "500"]
    done = subprocess.run([sys.executable, str(ROOT / "bench/gpu.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (out / "log.txt").read_text()
    return out


@pytest.mark.slow
def test_one_command_leaves_a_file_for_each_phase(found):
    names = {file.name for file in found.iterdir()}
    phases = {"environment", "tests", "kernels", "launches", "offline"}
    assert names == {"log.txt", "summary.json", *(f"{name}.json" for name in phases)}
    assert len(names) <= 8
    results = {name: json.loads((found / f"{name}.json").read_text()) for name in phases}
    assert {result["outcome"] for result in results.values()} == {"ok"}
    assert {result["commit"] for result in results.values()} == {"abc123"}
    for name in ("environment", "kernels", "launches", "offline"):
        assert {"benchmark", "command", "machine"} <= set(results[name])
    assert (results["tests"]["passed"], results["tests"]["failed"]) == (2, 0)
    assert results["launches"]["entries"][0]["op"] == "paged_attention_decode"
    rows = {row["name"]: row for row in results["offline"]["rows"]}
    assert rows["tiny: check: mean regret"]["note"].startswith("ok")
    assert rows["tiny: overlap on / off, 2 streams"]["note"].startswith("same tokens")
    assert {"tiny: optimize 2 / 1, decode, 2 streams", "tiny: optimize 2 / 1, prefill, 2 x 16"} <= set(rows)


@pytest.mark.slow
def test_every_op_has_a_figure_and_every_figure_the_same_fields(found):
    from penstock_kernels.gpu import OPS

    kernels = json.loads((found / "kernels.json").read_text())
    assert {figure["op"] for figure in kernels["figures"]} == {op.name for op in OPS}
    assert {frozenset(figure) for figure in kernels["figures"]} == {frozenset(FIGURE)}
    assert {figure["verdict"] for figure in kernels["figures"]} == {"right"}
    assert set(kernels["limits"]) == {"copy_gb_per_s", "matmul_tflop_per_s", "launch_us"}
    notes = {figure["peers"]["FA3"]["note"] for figure in kernels["figures"] if figure["op"] == "paged_attention"}
    assert notes == {"not installed"}


@pytest.mark.slow
def test_the_page_shows_what_was_found(found, tmp_path):
    results, page, chart = tmp_path / "results", tmp_path / "page.md", tmp_path / "gpu.svg"
    (results / "a-gpu").mkdir(parents=True)
    for name in ("kernels", "offline"):
        (results / "a-gpu" / f"{name}.json").write_text((found / f"{name}.json").read_text())
    page.write_text((ROOT / "docs/performance.md").read_text())
    made = script("gpu_page")
    made.write_page(results, page, chart)
    text = page.read_text()
    assert "No GPU has run this yet" not in text
    assert "| tiny paged_attention decode 3 x 40 |" in text
    assert "commit `abc123`" in text
    assert chart.read_text().count("<rect") > 3
    made.write_page(tmp_path / "nothing", page, chart)
    assert page.read_text() == made_anew(made, tmp_path)


def made_anew(made, tmp_path: Path) -> str:
    page = tmp_path / "anew.md"
    page.write_text((ROOT / "docs/performance.md").read_text())
    made.write_page(tmp_path / "nothing", page, tmp_path / "none.svg")
    return page.read_text()


def test_the_checked_in_page_is_up_to_date(tmp_path):
    page = tmp_path / "page.md"
    page.write_text((ROOT / "docs/performance.md").read_text())
    made = script("gpu_page")
    made.write_page(made.RESULTS, page, tmp_path / "gpu.svg")
    assert page.read_text() == (ROOT / "docs/performance.md").read_text()


def test_a_wrong_kernel_is_called_so_on_the_page():
    figure = {"model": "m", "op": "o", "shape": "s", "verdict": "wrong", "peers": {"FA3": {"microseconds": None}}}
    figure["peers"]["FA3"]["note"] = "not installed"
    line = script("gpu_page").kernel_line(figure)
    assert line == "| m o s | **wrong** |  |  |  |  | not installed |  |"


def test_a_phase_that_crashes_or_takes_too_long_is_told_and_ended(gpu, tmp_path):
    def run(program: str, seconds: float) -> str:
        with (tmp_path / "log.txt").open("w") as log:
            return gpu.run_child([sys.executable, "-c", program], dict(os.environ), seconds, log.fileno())

    began = time.monotonic()
    assert run("import os; os.abort()", 30) == "exit code -6"
    assert run("import time; time.sleep(60)", 1) == "stopped after 1 s"
    assert time.monotonic() - began < 30


def test_a_phase_that_is_stopped_writes_what_it_has_and_leaves_no_process_behind(gpu, tmp_path):
    (tmp_path / "phase.py").write_text(STUBBORN)
    with (tmp_path / "log.txt").open("w") as log:
        command = [sys.executable, str(tmp_path / "phase.py"), str(tmp_path / "found")]
        assert gpu.run_child(command, dict(os.environ), 3, log.fileno()) == "stopped after 3 s"
    child = int((tmp_path / "found").read_text())
    wait_for(lambda: not is_running(child), 10)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_wheels_are_unpacked_for_the_phases_alone(gpu, tmp_path):
    with zipfile.ZipFile(tmp_path / "brought-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought/__init__.py", "NAME = 'brought'")
    environment = gpu.child_environment(tmp_path / "scratch", tmp_path, is_smoke=False)
    found = [sys.executable, "-c", "import brought, penstock, penstock_kernels; print(brought.NAME)"]
    assert subprocess.run(found, env=environment, capture_output=True, text=True).stdout == "brought\n"
    settings = gpu.Settings(out=tmp_path, is_smoke=False, environment=environment, scratch=tmp_path / "scratch")
    assert gpu.has_package("brought", settings)


def test_a_folder_without_wheels_is_refused(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out"), "--wheels", str(tmp_path)])
    with pytest.raises(SystemExit):
        gpu.main()
    assert capsys.readouterr().err.endswith(f"error: --wheels: there are none in {tmp_path}\n")


def test_a_phase_without_a_file_gets_one_that_says_how_it_ended(gpu, tmp_path):
    gpu.complete(tmp_path / "kernels.json", "abc", "exit code 1")
    assert json.loads((tmp_path / "kernels.json").read_text()) == {"commit": "abc", "outcome": "exit code 1"}
    (tmp_path / "kernels.json").write_text('{"figures": [')
    gpu.complete(tmp_path / "kernels.json", "", "stopped after 3 s")
    assert json.loads((tmp_path / "kernels.json").read_text()) == {"outcome": "stopped after 3 s"}


def test_failures_are_named_in_the_summary_of_tests(gpu, tmp_path):
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="good"/><testcase classname="a" name="skipped"><skipped/>'
        '</testcase><testcase classname="a" name="bad"><failure message="assert 1 == 2&#10;more"/></testcase>'
        "</testsuite></testsuites>"
    )
    found = gpu.test_summary(report)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["failures"] == [["a::bad", "assert 1 == 2"]]


def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "penstock", "bench", "kernels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "penstock: error: bench kernels needs a GPU, and there is none; --smoke shows on a CPU that it runs"
    ]

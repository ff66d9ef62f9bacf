"""Measure a GPU: its limits, the kernels' tests and figures, the best launches of attention, whole models.

Runs from a checkout, on a machine without a network that has Python 3.11 or newer, torch, Triton, numpy and rich
(whole models: tokenizers, safetensors and transformers too), in under ten minutes. Each phase is a process of its own,
so one that crashes or takes too long loses no other; what it found lies in --out afterwards, as JSON.

  python bench/gpu.py --out DIR [--wheels DIR] [--phases environment,tests,kernels,launches,offline]
  python bench/gpu.py --out DIR --smoke        on a CPU, in Triton's interpreter: only to see that it runs

Wheels, for packages that such a machine may lack, are fetched where there is a network, for the Python of the GPU's
machine (here 3.12), about 30 MB:

  pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 --abi abi3 \\
    --platform manylinux_2_28_x86_64 --platform manylinux_2_24_x86_64 --platform manylinux2014_x86_64 \\
    --dest DIR msgspec fa3-fwd pytest pluggy iniconfig pytest-xdist execnet hypothesis sortedcontainers psutil

msgspec is needed by whole models and the runner's tests, fa3-fwd (FlashAttention 3, Hopper) is a peer, and from pytest
on all is for tests, which then run in many processes.

Figures to keep: copy the JSON files into bench/results/DEVICE/, then `python bench/gpu_page.py` writes the page.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 570.0
TEST_SECONDS = 60  # of one test, at most
RESERVE = 20.0  # seconds before the end of a phase in which it begins nothing more
MOST_PROCESSES = 12
LAST_WORDS = 12  # lines of a phase that failed
GRACE = 10.0  # seconds for a phase that is interrupted to write what it has


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all phases share."""

    out: Path
    is_smoke: bool
    environment: Mapping[str, str]
    scratch: Path

    @property
    def processes(self) -> int:
        """For tests, and for compiling kernels."""
        return 1 if self.is_smoke else min(MOST_PROCESSES, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One process."""

    name: str
    weight: float  # share of the time that is left
    command: Callable[[Settings, float], list[str]]  # for so many seconds

    def file(self, settings: Settings) -> Path:
        """What it writes."""
        return settings.out / f"{self.name}.json"


def module(name: str, *words: str) -> list[str]:
    """A Python module as a command."""
    return [sys.executable, "-P", "-m", *name.split(), *words]


def environment_command(settings: Settings, _: float) -> list[str]:
    """The machine and its limits."""
    file = str(settings.out / "environment.json")
    return module("penstock.bench.gpu.environment", "--json", file, *["--smoke"] * settings.is_smoke)


def tests_command(settings: Settings, _: float) -> list[str]:
    """Tests of the kernels, and of what runs them where msgspec is there; the project's own settings of pytest name
    plugins that may be missing."""
    files = sorted(str(file) for file in (ROOT / "tests/kernels").glob("test_gpu_*.py"))
    if has_package("msgspec", settings):
        files += [str(folder) for folder in (ROOT / "tests/attention", ROOT / "tests/worker/gpu") if folder.is_dir()]
    words = ["-c", os.devnull, f"--rootdir={ROOT}", "--import-mode=importlib", "-p", "no:cacheprovider", "-q"]
    words += ["-W", "ignore", "--continue-on-collection-errors", f"--junitxml={settings.scratch / 'tests.xml'}"]
    if settings.is_smoke:
        files, words = [str(ROOT / "tests/kernels/test_gpu_ops.py")], [*words, "-k", "silu-1x96"]
    else:
        words += ["-n", str(settings.processes)] if has_package("xdist", settings) else []
        words += [f"--timeout={TEST_SECONDS}"] if has_package("pytest_timeout", settings) else []
    return module("pytest", *files, *words)


def kernels_command(settings: Settings, seconds: float) -> list[str]:
    """Every kernel beside its peers."""
    words = ["--json", str(settings.out / "kernels.json"), "--seconds", f"{seconds - RESERVE:.0f}"]
    return module("penstock bench kernels", *words, *["--smoke"] * settings.is_smoke)


def launches_command(settings: Settings, seconds: float) -> list[str]:
    """The best launches of attention."""
    words = ["--json", str(settings.out / "launches.json"), "--seconds", f"{seconds - RESERVE:.0f}"]
    words += ["--smoke"] if settings.is_smoke else ["--processes", str(settings.processes)]
    return module("penstock.bench.gpu.sweep", *words)


def offline_command(settings: Settings, _: float) -> list[str]:
    """Whole models."""
    words = ["--device", "cuda"] if not settings.is_smoke else ["--device", "cpu", "--random", "tiny"]
    return module("penstock bench offline", *words, "--json", str(settings.out / "offline.json"))


PHASES = (
    Phase(name="environment", weight=60, command=environment_command),
    Phase(name="tests", weight=120, command=tests_command),
    Phase(name="kernels", weight=150, command=kernels_command),
    Phase(name="launches", weight=110, command=launches_command),
    Phase(name="offline", weight=150, command=offline_command),
)


def main() -> int:
    """The command; 0 if every phase went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the JSON files go")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels to install for this run alone")
    parser.add_argument("--phases", default=",".join(phase.name for phase in PHASES), metavar="LIST")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for all of it (default: {SECONDS:g})")
    parser.add_argument("--commit", default="", metavar="ID", help="of the code, where there is no git to tell")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, without a GPU")
    options = parser.parse_args()
    wanted = options.phases.split(",")
    if unknown := set(wanted) - {phase.name for phase in PHASES}:
        parser.error(f"--phases: there is no {', '.join(sorted(unknown))}")
    if options.wheels is not None and not any(options.wheels.glob("*.whl")):
        parser.error(f"--wheels: there are none in {options.wheels}")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        environment = child_environment(Path(scratch), options.wheels, is_smoke=options.smoke)
        settings = Settings(
            out=options.out.resolve(), is_smoke=options.smoke, environment=environment, scratch=Path(scratch)
        )
        done = run_phases([phase for phase in PHASES if phase.name in wanted], settings, options)
    summary = {"command": " ".join(["python", "bench/gpu.py", *sys.argv[1:]]), "commit": options.commit, "phases": done}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    for one in done:
        print(f"{one['phase']:12} {one['seconds']:6.1f} s  {one['outcome']}")
    return int(any(one["outcome"] != "ok" for one in done))


def child_environment(scratch: Path, wheels: Path | None, *, is_smoke: bool) -> dict[str, str]:
    """Variables of the phases: the checkout's packages first, then wheels, which are unpacked here."""
    paths = [str(ROOT / folder) for folder in ("runtime", "kernels", "operator", "tests")]
    if wheels is not None:
        for file in wheels.glob("*.whl"):  # not by pip: it may be missing, and one that does not fit would end it
            with zipfile.ZipFile(file) as archive:
                archive.extractall(scratch / "wheels")
        paths.append(str(scratch / "wheels"))
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "TOKENIZERS_PARALLELISM": "false"}
    if before := os.environ.get("PYTHONPATH"):
        paths.append(before)
    if is_smoke:
        variables["TRITON_INTERPRET"] = "1"
    return variables | {"PYTHONPATH": os.pathsep.join(paths)}


def run_phases(phases: list[Phase], settings: Settings, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run them one after the other; each may take its share of the time that is left then."""
    end, done = time.monotonic() + options.seconds, []
    with (settings.out / "log.txt").open("w") as log:
        for index, phase in enumerate(phases):
            share = phase.weight / sum(one.weight for one in phases[index:])
            seconds = max(1.0, share * (end - time.monotonic()))
            print(f"== {phase.name}: at most {seconds:.0f} s", flush=True)
            began = time.monotonic()
            outcome = run_child(phase.command(settings, seconds), settings.environment, seconds, log.fileno())
            if phase.name == "tests":
                phase.file(settings).write_text(json.dumps(test_summary(settings.scratch / "tests.xml")) + "\n")
            took = time.monotonic() - began
            complete(phase.file(settings), options.commit, outcome)
            done.append({"phase": phase.name, "seconds": took, "outcome": outcome})
            print("\n".join((settings.out / "log.txt").read_text(errors="replace").splitlines()[-LAST_WORDS:]))
    return done


def run_child(command: list[str], environment: Mapping[str, str], seconds: float, log: int) -> str:
    """Run one phase to its end, or to the end of its time with all that it started; "ok", or what went wrong."""
    # a shell's background job ignores interrupts, and so would its children
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    child = subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, preexec_fn=hear
    )
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        for number, patience in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(child.pid, number)
                child.wait(patience)
        return f"stopped after {seconds:.0f} s"
    return "ok" if code == 0 else f"exit code {code}"


def complete(file: Path, commit: str, outcome: str) -> None:
    """Say in a phase's file how it ended, and which code it was."""
    try:
        result = json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # it was ended before, or while, it wrote
        result = {}
    if commit:
        result["commit"] = commit
    file.write_text(json.dumps({**result, "outcome": outcome}, indent=1) + "\n")


def test_summary(report: Path) -> dict[str, object]:
    """Counts of a JUnit report, and the first line of each failure."""
    result: dict[str, object] = {"benchmark": "tests", "passed": 0, "failed": 0, "skipped": 0, "failures": []}
    if not report.is_file():
        return result
    cases = list(xml.parse(report).iter("testcase"))
    failures = {
        f"{case.get('classname')}::{case.get('name')}": (fault.get("message") or "").strip().splitlines()[:1]
        for case in cases
        for fault in (*case.iter("failure"), *case.iter("error"))
    }
    skipped = sum(case.find("skipped") is not None for case in cases)
    counts = {"passed": len(cases) - len(failures) - skipped, "failed": len(failures), "skipped": skipped}
    return {**result, **counts, "failures": [[name, *lines] for name, lines in failures.items()]}


def has_package(name: str, settings: Settings) -> bool:
    """Whether the phases can import it."""
    return importlib.util.find_spec(name) is not None or (settings.scratch / "wheels" / name).is_dir()


if __name__ == "__main__":
    sys.exit(main())

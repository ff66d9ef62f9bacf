"""`make bench` runs what there is, with flags that exist."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import pytest

from penstock.cli import BENCHMARKS
from penstock.flags import Parser

RUN_ALL = Path(__file__).parents[2] / "bench" / "run_all.py"


@pytest.mark.parametrize("is_quick", [True, False])
def test_every_benchmark_is_run_with_flags_that_it_knows(is_quick):
    spec = importlib.util.spec_from_file_location("run_all", RUN_ALL)
    run_all = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run_all)
    commands = run_all.commands(is_quick, "peers")
    assert sorted(commands) == sorted(set(BENCHMARKS) - run_all.NEEDS_GPU)
    for name, words in commands.items():
        parser = Parser(prog=name)
        importlib.import_module(f"penstock.bench.{name}").add_arguments(parser)
        assert parser.parse([*words, "--json", "file.json"]).json == Path("file.json")

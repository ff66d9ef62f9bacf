"""Flags for several workers: one worker is what this version runs, and whoever asks for more is told so at once."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from penstock.config import EngineConfig
from penstock.errors import ConfigError
from penstock.flags import Parser, add_config_flags, config_from


def config_of(*words: str) -> EngineConfig:
    parser = Parser(prog="serve")
    add_config_flags(parser)
    return config_from(parser.parse(words))


def test_one_worker_on_one_node_may_be_said_by_name():
    words = ("--tensor-parallel-size=1", "--pipeline-parallel-size", "1", "--nnodes=1", "--node-rank=0")
    assert config_of(*words) == config_of("-tp", "1", "-pp=1") == config_of()


def test_the_address_of_the_only_node_is_known_and_of_no_use():
    assert config_of("--master-addr=leader.demo").parallel.master_addr == "leader.demo"


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--tensor-parallel-size=2"], "--tensor-parallel-size: 2 "),
        (["-tp", "8", "-pp", "2"], "--tensor-parallel-size: 8 "),
        (["-pp=2"], "--pipeline-parallel-size: 2 "),
        (["--nnodes=2", "--node-rank=1", "--master-addr=leader.demo"], "--nnodes: 2 "),
        (["--node-rank=1"], "--node-rank: 1 "),
        (["-tp=0"], "--tensor-parallel-size: 0 "),
        (["--node-rank=-1"], "--node-rank: -1 "),
    ],
)
def test_whatever_asks_for_more_is_refused_by_the_name_of_its_flag(words, flag):
    with pytest.raises(ConfigError, match="this version runs one worker per replica") as caught:
        config_of(*words)
    assert str(caught.value).startswith(flag)


def test_what_is_no_number_is_said_to_be_none():
    with pytest.raises(ConfigError, match="--tensor-parallel-size: 'two' is not a whole number"):
        config_of("--tensor-parallel-size=two")


def test_serve_ends_at_once_with_one_line_and_the_exit_code_of_a_wrong_flag():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "serve", "no/such-model", "-tp", "2"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "--tensor-parallel-size: 2 asked for" in done.stderr
    assert done.stdout == ""
    assert time.monotonic() - began < 20

"""Which settings of a pod go together; what does not is one line that names the flag."""

from __future__ import annotations

import argparse
import sys

import pytest

from penstock.commands.pod import check_pod, placed
from penstock.config import EngineConfig
from penstock.errors import ConfigError
from penstock.flags import Parser, add_config_flags, config_from


def pod(*words: str) -> EngineConfig:
    parser = Parser()
    parser.set_defaults(model="embedded")
    add_config_flags(parser)
    args: argparse.Namespace = parser.parse(words)
    config = placed(config_from(args))
    check_pod(config)
    return config


def test_a_pod_that_does_both_has_no_internal_port_unless_asked_for():
    assert pod().server.internal_port is None
    assert pod("--internal-port", "9001").server.internal_port == 9001


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_a_pod_in_a_role_has_the_next_port(role):
    config = pod("--role", role, "--port", "9000")
    assert config.server.internal_port == 9001
    assert (config.transfer.pod_name or "").endswith(":9000")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--role", "decode", "--no-enable-prefix-caching"), "--role"),
        (("--role", "decode", "--port", "65535"), "--internal-port"),
        (("--port", "9000", "--internal-port", "9000"), "--internal-port"),
        (("--role", "decode", "--internal-host", "0.0.0.0"), "--internal-host"),
        (("--internal-port", "9000", "--internal-host", "node-1"), "--internal-host"),
        (("--role", "decode", "--cluster-key-file", "/nowhere"), "--cluster-key-file"),
        (("--trust-sidecar",), "--trust-sidecar"),
        (("--prefillers", "a:1"), "--prefillers"),
        (("--role", "prefill", "--prefillers", "a:1"), "--prefillers"),
        (("--role", "decode", "--prefillers", "a"), "--prefillers"),
        (("--role", "decode", "--prefillers", "a:1,http://b:2"), "--prefillers"),
        (("--role", "decode", "--prefillers", "a:1,,b:2"), "--prefillers"),
        (("--role", "decode", "--prefillers", "a:70000"), "--prefillers"),
        (("--role", "decode", "--pod-name", "a b"), "--pod-name"),
        (("--pod-name", ""), "--pod-name"),
        (("--pod-revision", "x" * 200), "--pod-revision"),
        (("--kv-offload-folder", "/tmp"), "--kv-offload-folder"),
        (("--kv-offload-memory", "1GiB", "--no-enable-prefix-caching"), "--kv-offload-memory"),
        (("--role", "both-of-them"), "--role"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_name_of_the_flag(words, flag):
    with pytest.raises(ConfigError, match=f"^{flag}: ") as caught:
        pod(*words)
    assert "\n" not in str(caught.value)


def test_beyond_loopback_a_key_is_enough(tmp_path):
    key = tmp_path / "key"
    key.write_text("a-key-that-is-long-enough\n")
    pod("--role", "decode", "--internal-host", "0.0.0.0", "--cluster-key-file", str(key))


@pytest.mark.parametrize("prefillers", ["a:1", "10.0.0.1:8001, prefill.pods.svc:8001", "[fe80::1]:9"])
def test_prefillers_are_addresses(prefillers):
    assert pod("--role", "decode", "--prefillers", prefillers).transfer.prefillers == prefillers


def test_a_role_without_nixl_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "nixl", None)
    pod()
    with pytest.raises(ConfigError, match=r"pip install 'penstock\[nixl\]'"):
        pod("--role", "prefill")

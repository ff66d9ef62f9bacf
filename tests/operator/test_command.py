"""`penstock-operator`, as a person at a terminal meets it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

import penstock
from penstock_operator.__main__ import build_parser, main, settings_from
from penstock_operator.errors import OperatorError
from penstock_operator.process import read_master_keys
from penstock_operator.settings import Settings


def settings(*words: str) -> Settings:
    return settings_from(vars(build_parser().parse_args(["run", *words])))


def test_defaults_live_in_the_settings_alone():
    assert settings() == Settings()


def test_every_setting_is_a_flag_with_help(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Settings):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["help"] in text
    assert "examples:" in text


def test_flags_have_the_types_of_the_settings():
    given = settings("--namespaces", "a, b", "--no-leader-election", "--num-workers=2", "--resync-seconds", "60")
    assert given.namespaces == ("a", "b")
    assert given.leader_election is False
    assert (given.num_workers, given.resync_seconds) == (2, 60.0)


def test_version_and_bare_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"penstock-operator {penstock.__version__}\n"
    assert main([]) == 0
    assert "penstock-operator run" in capsys.readouterr().out


def test_what_is_wrong_is_said_in_one_line(capsys):
    assert main(["run", "--num-workers", "0"]) == 1
    assert capsys.readouterr().err == "penstock-operator: error: --num-workers must be from 1 to 64, not 0\n"
    assert main(["run", "--log-level", "loud"]) == 1
    assert "--log-level" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["run", "--num-wrokers", "2"])
    assert caught.value.code == 2


def test_the_master_key_is_a_line_of_at_least_32_characters(tmp_path):
    file = tmp_path / "key"
    file.write_text("a" * 32 + "\n\n" + "b" * 40 + "\n" + "c" * 40 + "\n")
    assert read_master_keys(file) == (b"a" * 32, b"b" * 40)
    file.write_text("short\n")
    with pytest.raises(OperatorError, match="32"):
        read_master_keys(file)
    with pytest.raises(OperatorError, match="No such file"):
        read_master_keys(tmp_path / "none")


def test_without_a_cluster_the_process_says_how_to_name_one(tmp_path):
    (tmp_path / "key").write_text("k" * 32)
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
    environment.pop("KUBERNETES_SERVICE_HOST", None)
    words = [sys.executable, "-m", "penstock_operator", "run", "--master-key-file", str(tmp_path / "key")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr

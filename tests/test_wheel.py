"""The wheel is what users get: built here, installed in an empty environment, it serves with the compiled kernels."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import httpx
import pytest

from penstock_kernels.cpu import ops

ROOT = Path(__file__).parent.parent
PROGRAM = """
import json, penstock, penstock_kernels
from penstock import LLM, SamplingParams
from penstock_kernels.cpu import ops
with LLM(max_model_len=256) as llm:
    outputs = llm.generate("The capital of France is", SamplingParams(max_tokens=3, temperature=0), use_tqdm=False)
print(json.dumps({"text": outputs[0].outputs[0].text, "file": penstock.__file__, "kernels": ops.backend_name()}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_packages_and_compiled_kernels(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"penstock", "penstock_kernels", "penstock_operator"} <= tops
    assert not any(name.startswith("tests") for name in names)
    if ops.is_compiled():
        assert any(name.startswith("penstock_kernels/cpu/_cpu_") for name in names)
        assert "py3-none-any" not in wheel.name


@pytest.mark.slow
def test_the_wheel_serves_from_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    constraints = ROOT / "constraints.txt"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-c", constraints, wheel], check=True, timeout=900)
    done = subprocess.run([python, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert "Paris" in answer["text"]
    assert str(tmp_path) in answer["file"]
    assert answer["kernels"] == ops.backend_name()
    assert "Paris" in ask_server(tmp_path / "venv/bin/penstock", tmp_path)


def ask_server(command: Path, folder: Path) -> str:
    """What `penstock serve` of that environment answers over HTTP."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command_line = [command, "serve", "--port", str(port)]
    with (folder / "log").open("wb") as log, subprocess.Popen(command_line, stdout=log) as server:
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                while not is_ready(client):
                    assert server.poll() is None, (folder / "log").read_text()
                    time.sleep(0.1)
                body = {"prompt": "The capital of France is", "max_tokens": 3, "temperature": 0}
                model = client.get("/v1/models").json()["data"][0]["id"]
                return client.post("/v1/completions", json=body | {"model": model}).json()["choices"][0]["text"]
        finally:
            server.terminate()


def is_ready(client: httpx.Client) -> bool:
    """Whether requests are taken."""
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False

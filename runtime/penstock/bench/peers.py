"""Other engines on the same machine: transformers from this environment, the rest from environments of their own."""

from __future__ import annotations

import importlib.util
from contextlib import ExitStack
from pathlib import Path

from penstock.bench.contestant import Contestant
from penstock.errors import PenstockError

PEER_SCRIPTS = Path(__file__).parents[3] / "bench" / "peers"  # of the checkout: the wheel leaves them out


def start_peers(bf16: Path, gguf: Path | None, threads: int, folder: Path | None, stack: ExitStack) -> list[Contestant]:
    """transformers, and vLLM and llama.cpp where `folder` (see bench/setup_peers.sh) has them; they run as long as
    `stack`."""
    if importlib.util.find_spec("transformers") is None or not PEER_SCRIPTS.is_dir():
        raise PenstockError("bench offline compares with transformers: run it in a checkout after `make setup`")
    options = {"threads": threads, "model": str(bf16), "device": "cpu", "judge": "float32"}
    peers = [stack.enter_context(Contestant("transformers", PEER_SCRIPTS / "transformers_torch.py", options))]
    if folder is None:
        return peers
    rivals = [("vllm", "vllm_cpu.py", bf16), ("llama.cpp", "llama_cpp.py", gguf)]
    for name, script, model in rivals:
        python = folder.resolve() / Path(script).stem.removesuffix("_cpu") / "bin" / "python"
        if model is not None and python.exists():
            settings = {"threads": threads, "model": str(model)}
            peers.append(stack.enter_context(Contestant(name, PEER_SCRIPTS / script, settings, str(python))))
    if len(peers) == 1:
        raise PenstockError(f"--peers: {folder} has no environment; run bench/setup_peers.sh {folder} first")
    return peers

"""Throughput of whole models with random weights, as shares of what the device was measured to copy and multiply.

The other half of `penstock bench offline`: for a GPU, without a network. `transformers` runs the same checkpoint, in
turn with us, and judges our tokens.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from penstock.bench.ceiling import Ceiling, ModelCost
from penstock.bench.contestant import Contestant
from penstock.bench.peers import PEER_SCRIPTS
from penstock.bench.random_model import SHAPES, num_parameters, write_random_model
from penstock.bench.report import Report, Row
from penstock.errors import ConfigError, PenstockError
from penstock.loader.progress import say
from penstock.models.spec import ModelSpec

OWN_GPU_ENGINE = Path(__file__).with_name("own_gpu_engine.py")
OVERLAP_MODEL = "qwen3-0.6b"  # small enough that the host matters
MEAN_REGRET = 0.05  # nats: both round to bf16; a wrong token costs whole nats
REAL = ("qwen3-0.6b", "llama-3.1-8b")
GAPS = (10.0, 1.0)  # microseconds: between steps, and between kernels too
MEMORY_FILES = Path("/dev/shm")
SPARE = 2  # times a checkpoint's size that memory files must have free
MUST = {
    "decode 1": "must >= 70 % (8B), >= 50 % (0.6B)",
    "prefill": "must >= 50 %",
    "idle": "must <= 3 %",
    "overlap": "must >= 1.2 (0.6B)",
    "ready": "must <= 20 s (8B)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of everything."""

    prompt: int
    outputs: int
    streams: tuple[int, ...]  # the last for idle time and overlap
    long_prompt: int
    long_streams: int
    peer_streams: int  # at most
    repeats: int


FULL = Sizes(
    prompt=128, outputs=129, streams=(1, 32, 256), long_prompt=2048, long_streams=8, peer_streams=32, repeats=2
)
SMALL = Sizes(prompt=8, outputs=5, streams=(1, 2), long_prompt=16, long_streams=2, peer_streams=2, repeats=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Tokens per second of one engine at one number of streams, and its last tokens."""

    decode: float
    sequences: list[list[int]]  # prompt and outputs


def run(options: argparse.Namespace) -> int:
    """Measure, check the outputs, print, write; returns the exit code: 1 if our tokens are wrong."""
    names = options.random.split(",") if options.random else list(REAL)
    if unknown := [name for name in names if name not in SHAPES]:
        raise PenstockError(f"--random: {unknown[0]!r} is not one of {', '.join(SHAPES)}")
    check_device(options.device)
    sizes = FULL if options.device == "cuda" else SMALL
    rows: list[Row] = []
    failures = []
    ceiling = device_ceiling(options.device)
    command = f"penstock bench offline --device {options.device} --random {','.join(names)}"
    for name in names:
        try:
            with checkpoint(name, options.device) as folder:
                measure_model(name, folder, options.device, sizes, ceiling, rows)
        except PenstockError as error:
            failures.append(f"{name}: {error}")
        report = Report(benchmark="offline", command=command, rows=[*rows, *limit_rows(ceiling)])
        report.write(options.json)  # what a later model must not lose
    report.publish(options.json)
    for failure in failures:
        print(f"penstock: error: {failure}", file=sys.stderr)
    return int(bool(failures) or any(row.note.startswith("WRONG") for row in rows))


def check_device(device: str) -> None:
    """Raise `ConfigError` where that device cannot compute."""
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("device", "cuda was asked for, but there is no usable CUDA device; use --device cpu")


def device_ceiling(device: str) -> Ceiling:
    """Copy bandwidth and bf16 matmul of the device, measured now."""
    import torch

    from penstock.bench.gpu.clock import CudaClock, HostClock
    from penstock.bench.gpu.limits import measure_limits

    place = torch.device(device)
    clock = CudaClock(place) if device == "cuda" else HostClock()
    limits = measure_limits(clock, place, is_smoke=device != "cuda")
    if device == "cuda":
        del clock
        torch.cuda.empty_cache()
    return Ceiling(read_bandwidth=limits.copy, matmul={"bf16": limits.matmul})


@contextmanager
def checkpoint(name: str, device: str) -> Iterator[Path]:
    """A random checkpoint, in memory where there is room: loading it is what a warm page cache makes of it."""
    import torch

    config = SHAPES[name]
    needed = SPARE * num_parameters(config)
    is_roomy = MEMORY_FILES.is_dir() and shutil.disk_usage(MEMORY_FILES).free > SPARE * needed
    with tempfile.TemporaryDirectory(dir=MEMORY_FILES if is_roomy else None) as folder:
        say(f"writing {name} with random weights")
        write_random_model(Path(folder), config, torch.device(device))
        if device == "cuda":
            torch.cuda.empty_cache()
        yield Path(folder)


def measure_model(name: str, folder: Path, device: str, sizes: Sizes, ceiling: Ceiling, rows: list[Row]) -> None:
    """Add all rows of one model to `rows`, as they are found."""
    cost = decode_cost(ModelSpec.from_folder(folder))
    settings = engine_settings(folder, device, cost, sizes)
    table = {}
    with ExitStack() as stack:
        began = time.perf_counter()
        own = stack.enter_context(Contestant("penstock", OWN_GPU_ENGINE, settings))
        rows.append(start_row(name, own, began))
        peer = start_peer(folder, device, stack)
        most = {own.name: max(sizes.streams)} | ({peer.name: sizes.peer_streams} if peer else {})
        engines = [own, *([peer] if peer else [])]
        for streams in sizes.streams:
            busy = [engine for engine in engines if streams <= most[engine.name]]
            table[streams] = measure_decode(busy, streams, sizes)
            rows += decode_rows(name, streams, table[streams], cost, ceiling, sizes)
        rows += prefill_rows(name, engines, cost, ceiling, sizes)
        if peer:
            judged = max(streams for streams in sizes.streams if streams <= sizes.peer_streams)
            rows.append(check_row(name, peer, table[judged][own.name], sizes))
        if device == "cuda":
            rows += idle_rows(name, own, sizes)
    if name == OVERLAP_MODEL or device != "cuda":
        rows.append(overlap_row(name, settings, table[max(sizes.streams)][own.name], sizes))
        rows += compiled_rows(name, settings, rows, sizes)


def start_row(name: str, own: Contestant, began: float) -> Row:
    """From the start of the process until a server would serve: what it captures later, beside its first requests, is
    not in it. Loading a model's weights from memory is."""
    told = own.run("start").answer
    ready = [at for at, text in told if text.startswith("worker.ready")]
    phases = next((text.partition(" ")[2] for _, text in told if text.startswith("start.phases ")), "")
    note = "; ".join([MUST["ready"], phases, f"{own.load_seconds:.1f} with every graph"])
    return Row(name=f"{name}: start to ready", value=ready[0] - began, unit="s", note=note)


def decode_cost(spec: ModelSpec) -> ModelCost:
    """What a token needs; of an embedding table that is not the head a step reads single rows, which count nothing."""
    cost = ModelCost.of(spec, 0)
    return replace(cost, weight_bytes=2 * (cost.layer_weights + cost.head_weights))


def engine_settings(folder: Path, device: str, cost: ModelCost, sizes: Sizes) -> dict[str, Any]:
    """A KV cache for just the largest batch, so that a peer fits beside us."""
    decode = max(sizes.streams) * (sizes.prompt + sizes.outputs + 32)
    tokens = max(decode, sizes.long_streams * (sizes.long_prompt + 32)) + 64
    return {
        "model": str(folder),
        "device": device,
        "enable_prefix_caching": False,
        "kv_cache_memory": tokens * cost.kv_bytes,
        "max_model_len": max(sizes.long_prompt, sizes.prompt + sizes.outputs) + 64,
        "max_num_seqs": max(sizes.streams),
        "max_num_batched_tokens": max(64, 4 * sizes.long_prompt),
    }


def start_peer(folder: Path, device: str, stack: ExitStack) -> Contestant | None:
    """transformers on the same checkpoint; None where it is not installed."""
    script = PEER_SCRIPTS / "transformers_torch.py"
    if importlib.util.find_spec("transformers") is None or not script.is_file():
        say("transformers is not installed: no peer, and nobody to judge the tokens")
        return None
    options = {"model": str(folder), "device": device, "judge": "bfloat16"}
    return stack.enter_context(Contestant("transformers", script, options))


def prompts_of(streams: int, length: int, seed: int) -> list[list[int]]:
    """Random prompts of one length; their ids exist in every vocabulary here."""
    return np.random.default_rng(seed).integers(3, 300, (streams, length)).tolist()  # type: ignore[no-any-return]


def measure_decode(engines: list[Contestant], streams: int, sizes: Sizes) -> dict[str, Rates]:
    """Rates by engine: median of what the outputs after the first one add; one round before it is not counted."""
    seconds: dict[str, list[float]] = {engine.name: [] for engine in engines}
    sequences: dict[str, list[list[int]]] = {}
    for index in range(sizes.repeats + 1):
        prompts = prompts_of(streams, sizes.prompt, index)
        for engine in engines:
            say(f"{streams} streams: {engine.name}")
            first = engine.generate(prompts, 1).seconds
            answer = engine.generate(prompts, sizes.outputs)
            sequences[engine.name] = [one + outputs for one, outputs in zip(prompts, answer.answer, strict=True)]
            if index:
                seconds[engine.name].append(answer.seconds - first)
    return {
        name: Rates(
            decode=streams * (sizes.outputs - 1) / max(1e-9, statistics.median(found)), sequences=sequences[name]
        )
        for name, found in seconds.items()
    }


def decode_rows(
    name: str, streams: int, rates: Mapping[str, Rates], cost: ModelCost, ceiling: Ceiling, sizes: Sizes
) -> list[Row]:
    """Decode against the device's limit, then against the peer."""
    value = rates["penstock"].decode
    limit = ceiling.decode(cost, streams, sizes.prompt + sizes.outputs / 2, "bf16")
    note = f"{1000 * streams / value:.2f} ms per step{'; ' + MUST['decode 1'] if streams == 1 else ''}"
    figure = f"{name}: decode, {streams} streams"
    rows = [Row(name=figure, value=value, unit="tok/s", limit=limit, note=note)]
    if "transformers" in rates:
        rows.append(Row(name="  vs transformers", value=value, unit="tok/s", peer=rates["transformers"].decode))
    return rows


def prefill_rows(name: str, engines: list[Contestant], cost: ModelCost, ceiling: Ceiling, sizes: Sizes) -> list[Row]:
    """Prompt tokens per second: the share of the limit is the share of the measured matmul (MFU)."""
    rates = {engine.name: prefill_rate(engine, sizes) for engine in engines}
    value, limit = rates["penstock"], ceiling.prefill(cost, sizes.long_prompt, "bf16")
    figure = f"{name}: {prefill_figure(sizes)}"
    rows = [Row(name=figure, value=value, unit="tok/s", limit=limit, note=f"ratio is MFU; {MUST['prefill']}")]
    if "transformers" in rates:
        rows.append(Row(name="  vs transformers", value=value, unit="tok/s", peer=rates["transformers"]))
    return rows


def prefill_rate(engine: Contestant, sizes: Sizes) -> float:
    """Prompt tokens per second: median of rounds after a first one."""
    seconds = []
    for index in range(sizes.repeats + 1):
        say(f"prefill {sizes.long_streams} x {sizes.long_prompt}: {engine.name}")
        prompts = prompts_of(sizes.long_streams, sizes.long_prompt, 100 + index)
        seconds.append(engine.generate(prompts, 1).seconds)
    return sizes.long_streams * sizes.long_prompt / statistics.median(seconds[1:])


def check_row(name: str, judge: Contestant, rates: Rates, sizes: Sizes) -> Row:
    """How much likelier than our tokens the best ones were, by transformers in bf16."""
    sequences = rates.sequences[: sizes.peer_streams]
    regrets = np.array(judge.run("regrets", sequences=sequences, num_prompt=sizes.prompt).answer)
    verdict = "ok" if regrets.mean() <= MEAN_REGRET else "WRONG"
    note = f"{verdict}: worst {regrets.max():.3f}; {(regrets > 0).mean():.1%} of the tokens not the best"
    return Row(name=f"{name}: check: mean regret", value=float(regrets.mean()), unit="nats", note=note)


def idle_rows(name: str, own: Contestant, sizes: Sizes) -> list[Row]:
    """Share of steady decoding in which the device did nothing, from a trace."""
    streams = max(sizes.streams)
    prompts = prompts_of(streams, sizes.prompt, 200)
    shares = own.run("idle", prompts=prompts, num_outputs=sizes.outputs, gaps=GAPS).answer
    texts = (f"gaps over {GAPS[0]:g} us, that is between steps; {MUST['idle']}", f"gaps over {GAPS[1]:g} us")
    figure = f"{name}: device idle, {streams} streams"
    return [Row(name=figure, value=100 * share, unit="%", note=text) for share, text in zip(shares, texts, strict=True)]


def overlap_row(name: str, settings: dict[str, Any], overlapped: Rates, sizes: Sizes) -> Row:
    """Decode with steps planned ahead, against the same engine without."""
    streams = max(sizes.streams)
    with Contestant("penstock", OWN_GPU_ENGINE, {**settings, "overlap": False}) as plain:
        alone = measure_decode([plain], streams, sizes)[plain.name]
    is_same = alone.sequences == overlapped.sequences
    note = f"{'same tokens' if is_same else 'other tokens'}; {MUST['overlap']}"
    figure = f"{name}: overlap on / off, {streams} streams"
    return Row(name=figure, value=overlapped.decode, unit="tok/s", peer=alone.decode, note=note)


def compiled_rows(name: str, settings: dict[str, Any], rows: Iterable[Row], sizes: Sizes) -> list[Row]:
    """The figures at `--optimize 2` against those that `rows` has of the same engine at 1."""
    kernels, streams = {row.name: row.value for row in rows}, max(sizes.streams)
    with Contestant("penstock", OWN_GPU_ENGINE, {**settings, "optimize": 2}) as compiled:
        decode = measure_decode([compiled], streams, sizes)[compiled.name].decode
        found = {f"decode, {streams} streams": decode, prefill_figure(sizes): prefill_rate(compiled, sizes)}
    return [
        Row(name=f"{name}: optimize 2 / 1, {figure}", value=value, unit="tok/s", peer=kernels[f"{name}: {figure}"])
        for figure, value in found.items()
    ]


def prefill_figure(sizes: Sizes) -> str:
    """The name of what `prefill_rate` measures."""
    return f"prefill, {sizes.long_streams} x {sizes.long_prompt}"


def limit_rows(ceiling: Ceiling) -> list[Row]:
    """What everything is a share of."""
    return [
        Row(name="limit: copy bandwidth", value=ceiling.read_bandwidth / 1e9, unit="GB/s"),
        Row(name="limit: bf16 matmul", value=ceiling.matmul["bf16"] / 1e12, unit="TFLOP/s"),
    ]

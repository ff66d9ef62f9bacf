"""Throughput of the engine in one process, beside the machine's limits and, with `--peers`, other engines.

Every engine runs in a process of its own and they take turns; what disturbs the machine disturbs them all. A decode
figure is what the outputs after the first one add: tokens / (time with all of them - time with one).
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.bench import offline_random
from penstock.bench.ceiling import Ceiling, ModelCost, best_of, measure_ceiling, weight_bytes_of
from penstock.bench.contestant import OWN_ENGINE, Contestant
from penstock.bench.peer_models import bf16_folder, gguf_file
from penstock.bench.peers import start_peers
from penstock.bench.prefix_cache import measure_prefix_cache
from penstock.bench.random_model import SHAPES
from penstock.bench.report import Report, Row
from penstock.config import EMBEDDED_MODEL
from penstock.errors import PenstockError
from penstock.flags import MODEL_HELP
from penstock.loader.progress import say
from penstock.loader.sources import resolve
from penstock.models.spec import ModelSpec
from penstock.worker.machine import num_cores

PROMPT, OUTPUT = 128, 64
STREAMS = (1, 8, 32, 64)
PREFILL_STREAMS = 32
WEIGHTS = ("bf16", "int4", "int8")
RSS_ALLOWANCE = 600e6
MEAN_REGRET = 0.02  # nats: rounding costs a hundredth (single tokens more), a wrong model several whole ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """One of our engines: the kind of its weights, and what they cost."""

    weights: str
    engine: Contestant
    kernels: str
    cost: ModelCost
    kv_bytes: int

    @property
    def matmul(self) -> str:
        """The kind of arithmetic that bounds it."""
        return "bf16" if self.weights == "bf16" else "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Tokens per second of one engine at one number of streams, and the tokens it made."""

    decode: float
    prefill: float
    sequences: list[list[int]]  # prompt and outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    parser.add_argument("--model", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--weights", default="bf16,int4", metavar="LIST", help="of bf16, int4, int8 (default: bf16,int4)"
    )
    parser.add_argument("--threads", type=int, default=num_cores(), metavar="N", help="default: one per core")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="of each figure; the best counts (default: 3)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer streams, one repeat")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="engines set up by bench/setup_peers.sh")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: models with random weights, see --random"
    )
    parser.add_argument(
        "--random", metavar="LIST", help=f"models with random weights instead of --model, of {', '.join(SHAPES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, check the outputs, print, write; returns the exit code: 1 if an engine's tokens are wrong."""
    if options.random or options.device == "cuda":
        return offline_random.run(options)
    wanted = options.weights.split(",")
    if unknown := [word for word in wanted if word not in WEIGHTS]:
        raise PenstockError(f"--weights: {unknown[0]!r} is not one of {', '.join(WEIGHTS)}")
    streams, repeats = (STREAMS[:2], 1) if options.quick else (STREAMS, options.repeats)
    folder = bf16_folder(options.model)
    rows: list[Row] = []
    ceiling = measure_ceiling(options.threads)
    with ExitStack() as stack:
        owns = [start_own(weights, options, stack) for weights in wanted]
        peers = start_peers(folder, gguf_file(options.model), options.threads, options.peers, stack)
        judge = next(peer for peer in peers if peer.name == "transformers")
        table = {n: measure([own.engine for own in owns] + peers, n, repeats) for n in streams}
        ceiling = best_of(ceiling, measure_ceiling(options.threads))
        rows += speed_rows(owns, peers, ceiling, table)
        checks = check_rows(judge, table[streams[1]])
        rows += [*checks, *memory_rows(owns)]
    for weights in wanted[:1] if options.quick else wanted[:2]:
        say(f"prefix cache, {weights}")
        rows += measure_prefix_cache(weights, own_options(weights, options), is_quick=options.quick)
    rows += [
        Row(name="limit: read bandwidth", value=ceiling.read_bandwidth / 1e9, unit="GB/s"),
        *(Row(name=f"limit: {kind} matmul", value=rate / 1e9, unit="GOP/s") for kind, rate in ceiling.matmul.items()),
    ]
    Report(benchmark="offline", command=command_of(options), rows=rows).publish(options.json)
    return int(any("WRONG" in row.note for row in checks))


def own_options(weights: str, options: argparse.Namespace) -> dict[str, object]:
    """Settings of our engine for a kind of weights: bf16, a GGUF file's own 4 bits, else quantised while loading."""
    is_own_form = weights == "int4" and gguf_file(options.model) is not None
    settings = {"model": options.model if is_own_form else str(bf16_folder(options.model)), "threads": options.threads}
    return settings if is_own_form or weights == "bf16" else settings | {"quantization": weights}


def start_own(weights: str, options: argparse.Namespace, stack: ExitStack) -> Own:
    """Start our engine, for as long as `stack`, with a KV cache for just the most streams."""
    settings = own_options(weights, options)
    folder = resolve(str(settings["model"])).folder
    spec = ModelSpec.from_folder(folder)
    quantization = settings.get("quantization")
    cost = ModelCost.of(spec, weight_bytes_of(folder, str(quantization) if quantization else None))
    kv_bytes = max(STREAMS) * (PROMPT + OUTPUT + 16) * cost.kv_bytes
    more = {"enable_prefix_caching": False, "kv_cache_memory": kv_bytes}
    engine = stack.enter_context(Contestant(f"penstock {weights}", OWN_ENGINE, settings | more))
    return Own(
        weights=weights,
        engine=engine,
        kernels=f"{engine.run('kernels').answer} kernels",
        cost=cost,
        kv_bytes=kv_bytes,
    )


def measure(engines: list[Contestant], streams: int, repeats: int) -> dict[str, Rates]:
    """Rates by engine, best of `repeats`, each time with new prompts that are the same for all."""
    random = np.random.default_rng(streams)
    first: dict[str, list[float]] = {engine.name: [] for engine in engines}
    whole: dict[str, list[float]] = {engine.name: [] for engine in engines}
    sequences: dict[str, list[list[int]]] = {}
    for _ in range(repeats):
        prompts = random.integers(100, 32_000, (streams, PROMPT)).tolist()
        for engine in engines:
            if engine.name == "llama.cpp" and streams > 1:
                continue  # its binding serves one stream at a time
            say(f"{streams} streams: {engine.name}")
            first[engine.name].append(engine.generate(prompts, 1).seconds)
            answer = engine.generate(prompts, OUTPUT)
            whole[engine.name].append(answer.seconds)
            sequences[engine.name] = [p + outputs for p, outputs in zip(prompts, answer.answer, strict=True)]
    return {
        name: Rates(
            decode=streams * (OUTPUT - 1) / max(1e-9, min(whole[name]) - min(first[name])),
            prefill=streams * PROMPT / min(first[name]),
            sequences=sequences[name],
        )
        for name in sequences
    }


def speed_rows(
    owns: list[Own], peers: list[Contestant], ceiling: Ceiling, table: dict[int, dict[str, Rates]]
) -> list[Row]:
    """Decode and prefill against the limit, then against each peer that serves such weights."""
    rows = []
    prefill_streams = min(PREFILL_STREAMS, max(table))
    for own in owns:
        kinds = {"int4": ("llama.cpp",), "bf16": ("vllm", "transformers")}.get(own.weights, ())
        rivals = [peer.name for peer in peers if peer.name in kinds]
        for streams, rates in table.items():
            name, value = f"decode, {own.weights}, {streams} streams", rates[own.engine.name].decode
            limit = ceiling.decode(own.cost, streams, PROMPT + OUTPUT / 2, own.matmul)
            rows.append(Row(name=name, value=value, unit="tok/s", limit=limit, note=own.kernels))
            rows += [
                Row(name=f"  vs {rival}", value=value, unit="tok/s", peer=rates[rival].decode)
                for rival in rivals
                if rival in rates
            ]
        rates = table[prefill_streams]
        name, value = f"prefill, {own.weights}, {prefill_streams} x {PROMPT}", rates[own.engine.name].prefill
        rows.append(Row(name=name, value=value, unit="tok/s", limit=ceiling.prefill(own.cost, PROMPT, own.matmul)))
        for rival in rivals:
            theirs = rates[rival] if rival in rates else table[1][rival]
            rows.append(Row(name=f"  vs {rival}", value=value, unit="tok/s", peer=theirs.prefill))
    return rows


def check_rows(judge: Contestant, rates: dict[str, Rates]) -> list[Row]:
    """For each engine, how much likelier than its token the best one was, by one pass of transformers in fp32."""
    rows = []
    for name, rate in rates.items():
        regrets = np.array(judge.run("regrets", sequences=rate.sequences, num_prompt=PROMPT).answer)
        is_right = regrets.mean() <= MEAN_REGRET
        share = float((regrets > 0).mean())
        note = f"{'ok' if is_right else 'WRONG'}: worst {regrets.max():.3f}; {share:.1%} of the tokens not the best"
        rows.append(Row(name=f"check: mean regret, {name}", value=float(regrets.mean()), unit="nats", note=note))
    return rows


def memory_rows(owns: list[Own]) -> list[Row]:
    """Resident memory after the work, against weights + KV cache + 600 MB."""
    rows = []
    for own in owns:
        now, peak = own.engine.memory()
        limit = (own.cost.weight_bytes + own.kv_bytes + RSS_ALLOWANCE) / 1e6
        note = f"must: weights + KV + 600 MB; {peak / 1e6:,.0f} MB at most, mapped files included"
        rows.append(Row(name=f"memory, {own.weights}", value=now / 1e6, unit="MB", limit=limit, note=note))
    return rows


def command_of(options: argparse.Namespace) -> str:
    """The command line that gives this report again."""
    words = ["penstock bench offline", f"--weights {options.weights}", f"--threads {options.threads}"]
    words += ["--quick"] * options.quick + ["--peers FOLDER"] * (options.peers is not None)
    return " ".join(words)

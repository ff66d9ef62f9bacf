"""One prefill and one decode pod against two pods that do both, each pod pinned to its half of the same cores.

Both services run all the time and take turns, and get the same requests: what they answer must be equal, token for
token. The routers and this process are not pinned. Figures are medians over the seeds, with the lowest and highest.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from penstock.bench.interference import Interference, texts_of
from penstock.bench.kv_copy import copy_rows
from penstock.bench.latency import Objective, summarize, unit_of
from penstock.bench.load_generator import Load, Target, offer
from penstock.bench.own_service import OwnService
from penstock.bench.plot import write_plot
from penstock.bench.report import Report, Row
from penstock.bench.serve import model_name, rates_of
from penstock.config import EMBEDDED_MODEL
from penstock.errors import ConfigError, PenstockError
from penstock.flags import MODEL_HELP
from penstock.loader.sources import resolve

ARRANGEMENTS = {"disaggregated": ("prefill", "decode"), "colocated": ("both", "both")}
SHOWN = ("goodput", "completed", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99")
MOST_ITL_GROWTH = 1.2  # ITL p99 while a long prompt arrives, times the quiet one; binding on a GPU
QUICK = {"rates": "0.5", "seconds": 10.0, "seeds": 1, "long_prompts": 2}

Runs = Sequence[Mapping[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this benchmark."""
    add = parser.add_argument
    add("--model", default=EMBEDDED_MODEL, metavar="MODEL", help=MODEL_HELP)
    add("--rates", default="0.25,0.5,0.75", metavar="LIST", help="requests per second (default: %(default)s)")
    add("--seconds", type=float, default=20.0, metavar="X", help="counted time per rate and seed (default: 20)")
    add("--warm-up", type=float, default=3.0, metavar="X", help="time before it that is not counted (default: 3)")
    add("--seeds", type=int, default=3, metavar="N", help="repetitions (default: 3)")
    add("--prompt-tokens", type=int, default=768, metavar="N", help="of the goodput part (default: 768)")
    add("--output-tokens", type=int, default=48, metavar="N", help="of the goodput part (default: 48)")
    add("--slo-ttft-ms", type=float, default=3000.0, metavar="X", help="first token in time (default: 3000)")
    add("--slo-itl-ms", type=float, default=100.0, metavar="X", help="99 %% of the gaps in time (default: 100)")
    add("--streams", type=int, default=4, metavar="N", help="running while long prompts arrive (default: 4)")
    add("--long-tokens", type=int, default=1536, metavar="N", help="of a long prompt (default: 1536)")
    add("--long-prompts", type=int, default=4, metavar="N", help="that arrive, per seed (default: 4)")
    add("--cores", metavar="LIST", help="cores for the pods, such as 0,1 (default: all that this process may use)")
    add("--quick", action="store_true", help="one rate, one seed, ten seconds")
    add("--plot", type=Path, metavar="FILE.svg", help="write curves of the goodput over the offered rate")
    add("--json", type=Path, metavar="FILE", help="write the figures to FILE")


def run(options: argparse.Namespace) -> int:
    """Measure, print, write; returns the exit code: 1 if an answer differs or is missing."""
    if options.quick:
        vars(options).update(QUICK)
    halves = halves_of(options.cores)
    rates = rates_of(options.rates)
    folder = str(resolve(options.model).folder)
    words = ["--threads", str(len(halves[0])), "--kv-cache-memory", "1GiB"]
    with ExitStack() as stack:
        services = {
            name: stack.enter_context(OwnService(folder, roles, halves, words)) for name, roles in ARRANGEMENTS.items()
        }
        for service in services.values():
            service.wait_ready()
        targets = {name: Target(url=each.url, model=model_name(each.url)) for name, each in services.items()}
        interference, texts = measure_interference(targets, options)
        goodput, more_texts = measure_goodput(targets, rates, options)
        num_moved, bytes_moved = services["disaggregated"].moved()
    rows = [row for name in ARRANGEMENTS for row in interference_rows(name, interference)]
    for rate in rates:
        rows += goodput_rows(rate, {name: runs[rate] for name, runs in goodput.items()})
    compared = compare_texts({name: texts[name] + more_texts[name] for name in ARRANGEMENTS})
    rows += [
        compared,
        Row(name="KV transfers meanwhile", value=num_moved, unit="", note=f"{bytes_moved / 1e6:,.0f} MB"),
    ]
    rows += copy_rows()
    if options.plot is not None:
        write_plot(options.plot, curves_of(goodput))
    note = f"pods pinned to cores {' and '.join(','.join(map(str, half)) for half in halves)}"
    Report(benchmark="pd", command=f"{command_of(options)}  # {note}", rows=rows).publish(options.json)
    return int(compared.value != compared.limit)


def halves_of(cores: str | None) -> list[list[int]]:
    """The cores of each of two pods. Raises `ConfigError`."""
    usable = sorted(os.sched_getaffinity(0))
    try:
        chosen = usable if cores is None else [int(word) for word in cores.split(",")]
    except ValueError:
        chosen = []
    if len(chosen) < 2 or not set(chosen) <= set(usable):
        raise ConfigError("cores", f"two or more of {','.join(map(str, usable))} are needed, such as 0,1")
    half = len(chosen) // 2
    return [chosen[:half], chosen[half : 2 * half]]


def measure_interference(
    targets: Mapping[str, Target], options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, float]]], dict[str, list[str]]]:
    """(figures of each seed, texts of the long prompts) by arrangement."""
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in targets}
    texts: dict[str, list[str]] = {name: [] for name in targets}
    for seed in range(-1, options.seeds):  # the first is a warm-up: pods meet, rates are learnt
        scene = Interference(
            num_streams=options.streams,
            long_tokens=options.long_tokens,
            num_long=options.long_prompts if seed >= 0 else 1,
            quiet=4.0 if seed >= 0 else 0.0,
            every=options.long_tokens / 400,  # seconds: the last one is over on a core that prefills 400 tokens/s
            seed=seed + 1000,
        )
        for name, target in targets.items():
            effect = scene.run(target)
            texts[name] += effect.texts
            if seed >= 0:
                figures[name].append(effect.figures())
    return figures, texts


def measure_goodput(
    targets: Mapping[str, Target], rates: Sequence[float], options: argparse.Namespace
) -> tuple[dict[str, dict[float, list[dict[str, float]]]], dict[str, list[str]]]:
    """(figures of each seed by rate, texts) by arrangement."""
    slo = Objective(first=options.slo_ttft_ms / 1000, gap=options.slo_itl_ms / 1000)
    end = options.warm_up + options.seconds
    figures: dict[str, dict[float, list[dict[str, float]]]] = {name: {rate: [] for rate in rates} for name in targets}
    texts: dict[str, list[str]] = {name: [] for name in targets}
    for rate in rates:
        for seed in range(options.seeds):
            load = Load(
                rate=rate,
                seconds=end,
                burstiness=1.0,
                prompt_tokens=options.prompt_tokens,
                output_tokens=options.output_tokens,
                seed=round(rate * 1000) * 100 + seed,
            )
            for name, target in targets.items():
                exchanges = offer(target, load)
                texts[name] += texts_of(exchanges)
                figures[name][rate].append(summarize(exchanges, options.warm_up, end, slo))
    return figures, texts


def interference_rows(name: str, figures: Mapping[str, Runs]) -> list[Row]:
    """What streams noticed; the limit of a busy ITL is the quiet one, its peer the colocated service's."""
    rows = []
    for figure in figures[name][0]:
        quiet = figure.replace("long prompts arriving", "quiet")
        limit = median(figures[name], quiet) if quiet != figure else None
        value, note = median(figures[name], figure), spread(figures[name], figure)
        if limit is not None:
            note += f"; {value / limit:.2f} times quiet"
            note += f" (must <= {MOST_ITL_GROWTH} on a GPU)" if "p99" in figure else ""
        peer = median(figures["colocated"], figure) if name != "colocated" else None
        rows.append(Row(name=f"{name}: {figure}", value=value, unit="ms", limit=limit, peer=peer, note=note))
    return rows


def goodput_rows(rate: float, figures: Mapping[str, Runs]) -> list[Row]:
    """The figures of both at one rate; the peer is the colocated service."""
    rows = []
    for name in ARRANGEMENTS:
        for figure in SHOWN:
            value = median(figures[name], figure)
            limit = median(figures[name], "offered") if figure in ("goodput", "completed") else None
            peer = median(figures["colocated"], figure) if name != "colocated" else None
            title, note = f"{rate:g} req/s, {name}: {figure}", spread(figures[name], figure)
            rows.append(Row(name=title, value=value, unit=unit_of(figure), limit=limit, peer=peer, note=note))
    return rows


def compare_texts(texts: Mapping[str, list[str]]) -> Row:
    """How many answers of both services are there and equal. Raises `PenstockError` if there is none to compare."""
    pairs = list(zip(*texts.values(), strict=True))
    if not pairs:
        raise PenstockError("no request was sent: offer a higher rate, or for longer")
    equal = sum(first == second != "" for first, second in pairs)
    note = "answers of the disaggregated service that equal those of the colocated one"
    return Row(name="equal answers", value=equal, unit="", limit=len(pairs), note=note)


def median(runs: Runs, figure: str) -> float:
    """Over the seeds that have the figure; NaN if none has."""
    values = [figures[figure] for figures in runs if not math.isnan(figures[figure])]
    return statistics.median(values) if values else math.nan


def spread(runs: Runs, figure: str) -> str:
    """Lowest and highest."""
    values = [figures[figure] for figures in runs]
    return f"{min(values):,.4g} to {max(values):,.4g}"


def curves_of(goodput: Mapping[str, Mapping[float, Runs]]) -> dict[float, dict[str, float]]:
    """Rate -> figures for the plot."""
    rates = next(iter(goodput.values()))
    return {
        rate: {f"goodput, {name}": median(runs[rate], "goodput") for name, runs in goodput.items()} for rate in rates
    }


def command_of(options: argparse.Namespace) -> str:
    """The command line that gives this report again."""
    load = f"--rates {options.rates} --seconds {options.seconds:g} --seeds {options.seeds}"
    sizes = f"--prompt-tokens {options.prompt_tokens} --output-tokens {options.output_tokens}"
    slo = f"--slo-ttft-ms {options.slo_ttft_ms:g} --slo-itl-ms {options.slo_itl_ms:g}"
    long = f"--streams {options.streams} --long-tokens {options.long_tokens} --long-prompts {options.long_prompts}"
    return f"penstock bench pd --model {options.model} {load} {sizes} {slo} {long}"
